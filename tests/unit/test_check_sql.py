"""The count at the end of `make check`, and the notice of its first start."""

import check_sql
from support.googlesql import find_module_folder


def test_one_statement_is_said_in_the_singular():
    report = check_sql.render_report(check_sql.Check(None, None, statements=1))

    assert report == "1 requête lue par l'analyseur de GoogleSQL : 0 refusée, 1 jugée."


def test_first_start_says_that_the_analyser_compiles_itself(tmp_path, monkeypatch, capsys):
    def compile_analyser(folder):
        assert "L'analyseur de GoogleSQL se compile" in capsys.readouterr().err
        (find_module_folder(folder) / "modules" / "wasmtime-1").mkdir(parents=True)
        (find_module_folder(folder) / "modules" / "wasmtime-1" / "module").touch()

    monkeypatch.setattr(check_sql, "SqlAnalyser", compile_analyser)
    check_sql.start_analyser(tmp_path)

    monkeypatch.setattr(check_sql, "SqlAnalyser", lambda folder: None)
    check_sql.start_analyser(tmp_path)

    assert capsys.readouterr().err == ""
