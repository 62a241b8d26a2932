"""The counts and the lists of `make check`, and the notice of its first start."""

import check_sql
from support.googlesql import find_module_folder


def test_one_statement_is_said_in_the_singular():
    report = check_sql.render_report(check_sql.Check(None, None, judged=1))

    assert report == "1 requête lue par l'analyseur de GoogleSQL : 0 refusée, 1 jugée."


def test_statements_that_are_read_are_the_sum_of_the_others():
    check = check_sql.Check(None, None, judged=4, read_for_grammar=2, refusals=["✗ x", "✗ y"])

    report = check_sql.render_report(check)

    counts = "2 refusées, 4 jugées, 2 pour leur grammaire seule."
    assert report.endswith(f"8 requêtes lues par l'analyseur de GoogleSQL : {counts}")


def test_model_that_is_read_twice_is_listed_once():
    check = check_sql.Check(None, None, judged=2)
    check.judged_by_guesses["source x.y"] += ["loads", "loads"]

    report = check_sql.render_report(check)

    assert "! Colonnes devinées (source x.y) : loads\n" in report
    assert "2 jugées, dont 2 avec des colonnes devinées." in report


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
