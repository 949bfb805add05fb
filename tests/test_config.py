"""Settings: what is refused, with which words, and what the recipes promise."""

import dataclasses
import json

import numpy as np
import pytest

from csr_st.config import RECIPES, TrainConfig, recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "sae"}, "recipe='sae' is not one of .*nested"),
        ({"schedule": "linear"}, "schedule='linear' is not one of .*cosine"),
        ({"precision": "fp16"}, "precision='fp16' is not one of .*bf16"),
        ({"k": 0}, r"k=0 must be within 1\.\."),
        ({"k": 65, "hidden_dim": 64}, r"k=65 must be within 1\.\.64"),
        ({"hidden_dim": 2**24 + 1, "k": 1}, r"hidden_dim=16777217 must be within 1\.\.16777216"),
        ({"steps": 0}, "steps=0 must be within 1"),
        ({"batch_size": 0}, "batch_size=0 must be within 1"),
        ({"warmup": 1.5}, r"warmup=1\.5 must be within 0\.\.1"),
        ({"ema": -0.1}, r"ema=-0\.1 must be within 0\.\.1"),
        ({"aux_weight": -1.0}, r"aux_weight=-1\.0 must be within 0"),
        ({"contrastive_weight": float("nan")}, "contrastive_weight=nan must be within 0"),
        ({"temperature": 0.0}, r"temperature=0\.0 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be above 0"),
        ({"seed": -1}, r"seed=-1 must be within 0\.\."),
        ({"ks": ()}, r"ks=\(\) must name at least one k"),
        ({"ks": (0, 2)}, r"ks=\(0, 2\) must name at least one k, and each .* must be 1 or more"),
        ({"short_ks": (0, 2)}, r"short_ks=\(0, 2\) must be 1 or more"),
    ],
)
def test_values_out_of_bounds_are_refused_with_value_and_bound(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize("settings", [{"k": 2.5}, {"steps": "100"}, {"seed": None}, {"k": True}])
def test_fractions_and_words_are_no_whole_numbers(settings):
    name = next(iter(settings))
    with pytest.raises(TypeError, match=f"{name}=.* must be a whole number"):
        TrainConfig(**settings)


def test_ks_are_sorted_and_distinct():
    assert TrainConfig(ks=[8, 2, 2, 4]).ks == (2, 4, 8)
    assert TrainConfig(short_ks=[4, 2]).short_ks == (2, 4)


def test_a_config_is_not_changed_in_place():
    config = TrainConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.k = 3


def test_json_gives_the_same_config_back():
    config = recipe("csrv2", k=np.int64(3), ks=np.array([4, 2]), steps=np.int32(9))
    assert TrainConfig(**json.loads(config.to_json())) == config


def test_every_setting_has_a_help_text():
    assert all(field.metadata["help"] for field in dataclasses.fields(TrainConfig))


@pytest.mark.parametrize("name", RECIPES)
def test_own_settings_stand_over_a_recipe(name):
    config = recipe(name, learning_rate=0.5, contrastive_weight=0.25)
    assert (config.recipe, config.learning_rate, config.contrastive_weight) == (name, 0.5, 0.25)


def test_csr_is_what_the_paper_prints():
    config = recipe("csr")
    # Equation 7 and appendix C.4: L(4k)/8, β = 1/32, k_aux = 512, tied, constant rate.
    assert (config.wide_weight, config.aux_weight) == (1 / 8, 1 / 32)
    assert (config.k_aux, config.tied, config.schedule) == (512, True, "constant")


def test_unknown_recipes_and_fields_are_refused():
    with pytest.raises(ValueError, match="'csr3' is not one of"):
        recipe("csr3")
    with pytest.raises(TypeError, match="learning_rte"):
        recipe("csr", learning_rte=1)
