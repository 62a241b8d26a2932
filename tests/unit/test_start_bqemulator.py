"""Which of the local BigQuery's own failures its clients may try again."""

import asyncio

from fastapi import Request

from start_bqemulator import refuse


def answer(path, error):
    request = Request({"type": "http", "method": "POST", "path": path, "headers": []})
    return asyncio.run(refuse(request, error))


def test_failure_lasts_when_it_comes_back():
    error = ValueError("no such thing\nin a long statement")

    answers = [answer("/jobs", error), answer("/jobs", error), answer("/tables", error)]

    assert [answer.status_code for answer in answers] == [500, 400, 500]
    assert b"bqemulator) \xc3\xa9choue : no such thing Corrigez" in answers[1].body
