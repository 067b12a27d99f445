"""The table of Hessians by torch.func tells right from wrong, and all of ours are right."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.functions import CASES, COMPOSITIONS, Case, answers, main, verdict


@pytest.mark.parametrize("name", CASES)
def test_formulas_are_what_pytorch_computes(name: str):
    case = CASES[name]
    numbers = case.numbers()
    torch.testing.assert_close(case.loss(case.function)(numbers), case.loss(case.formula)(numbers))


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("name", CASES)
def test_every_hessian_inside_second_order_is_right(name: str, composition: str):
    assert verdict(CASES[name], composition, inside=True) == "right"


def refusing(x: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError


def test_a_wrong_hessian_and_a_refusal_are_told():
    wrong = answers(Case([(3,)], lambda x: 2 * x.square(), torch.square))
    assert set(wrong) == {*COMPOSITIONS, "all four inside second_order()"}
    assert all(word.startswith("**wrong** (") for word in wrong.values())
    assert set(answers(Case([(3,)], refusing, torch.square)).values()) == {"refuses (NotImplementedError)"}


def test_the_table_has_every_function(tmp_path):
    main(["--out", str(tmp_path)])
    assert json.loads((tmp_path / "functions.json").read_text())["rows"].keys() == CASES.keys()
    text = (tmp_path / "functions.md").read_text()
    assert all(f"\n| {name} | " in text for name in CASES)
