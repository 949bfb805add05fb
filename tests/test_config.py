"""Settings: what is refused, with which words, and what the recipes promise."""

import dataclasses
import json

import numpy as np
import pytest

from csr_st.config import CONFIGS, RECIPES, TrainConfig, recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "linear"}, "schedule='linear' is not one of .*cosine"),
        ({"precision": "fp16"}, "precision='fp16' is not one of .*bf16"),
        ({"k": 0}, "k=0 is below 1; pass 1 <= k <="),
        ({"k": 65, "hidden_dim": 64}, "k=65 exceeds hidden_dim=64; pass 1 <= k <= 64"),
        ({"hidden_dim": 2**24 + 1}, "hidden_dim=16777217 exceeds the largest supported, 16777216"),
        ({"steps": 0}, "steps=0 is below 1; pass steps >= 1"),
        ({"batch_size": 0}, "batch_size=0 is below 1; pass batch_size >= 1"),
        ({"evaluate_every": 0}, "evaluate_every=0 is below 1"),
        ({"patience": -1}, "patience=-1 is below 0; pass patience >= 0"),
        ({"warmup": 1.5}, r"warmup=1\.5 must be within 0\.\.1"),
        ({"aux_weight": -1.0}, r"aux_weight=-1\.0 must be within 0"),
        ({"contrastive_weight": float("nan")}, "contrastive_weight=nan must be within 0"),
        ({"temperature": 0.0}, r"temperature=0\.0 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be above 0"),
        ({"seed": -1}, "seed=-1 is below 0; pass 0 <= seed <= 4294967295"),
        ({"power": 2.0}, r"power=2\.0 must be above 0 and at most 1"),
        ({"ks": ()}, r"ks=\(\) must name at least one k"),
        ({"ks": (0, 2)}, "ks=0 is below 1"),
        ({"short_ks": (0, 2)}, "short_ks=0 is below 1"),
    ],
)
def test_values_out_of_bounds_are_refused_with_value_and_bound(settings, message):
    with pytest.raises(ValueError, match=message):
        recipe(**settings)


@pytest.mark.parametrize("settings", [{"k": 2.5}, {"steps": "100"}, {"seed": None}, {"k": True}])
def test_fractions_and_words_are_not_integers(settings):
    name = next(iter(settings))
    with pytest.raises(TypeError, match=f"{name}=.* is not an integer"):
        recipe(**settings)


def test_switches_are_true_or_false():
    with pytest.raises(TypeError, match="tied=1 must be True or False"):
        recipe(tied=1)


def test_ks_are_sorted_and_distinct():
    assert recipe(ks=[8, 2, 2, 4]).ks == (2, 4, 8)
    assert recipe(short_ks=[4, 2]).short_ks == (2, 4)


def test_a_config_is_not_changed_in_place():
    config = recipe()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.k = 3


def test_json_gives_the_same_config_back():
    config = recipe("csrv2", k=np.int64(3), ks=np.array([4, 2]), steps=np.int32(9))
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    assert recipe(settings.pop("recipe"), **settings) == config


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_has_a_help_text(name):
    assert all(field.metadata["help"] for field in dataclasses.fields(CONFIGS[name]))


def test_the_base_of_all_recipes_is_not_a_recipe():
    assert all(isinstance(recipe(name), TrainConfig) for name in RECIPES)
    with pytest.raises(TypeError, match=r"base of all recipes; call csr_st\.recipe"):
        TrainConfig()


@pytest.mark.parametrize("name", RECIPES)
def test_own_settings_stand_over_a_recipe(name):
    config = recipe(name, learning_rate=0.5, contrastive_weight=0.25)
    assert (config.recipe, config.learning_rate, config.contrastive_weight) == (name, 0.5, 0.25)


def test_csr_is_what_the_paper_prints():
    config = recipe("csr")
    # Equation 7 and appendix C.4: β = 1/32, k_aux = 512, tied, constant rate, Adam.
    assert config.aux_weight == 1 / 32
    assert (config.weight_decay, config.adam_epsilon) == (1e-4, 6.25e-10)
    assert (config.k_aux, config.tied, config.schedule) == (512, True, "constant")


def test_unknown_recipes_and_fields_are_refused():
    with pytest.raises(ValueError, match="'csr3' is not one of"):
        recipe("csr3")
    with pytest.raises(TypeError, match=r"no setting \['learning_rte'\]; it has .*learning_rate"):
        recipe("csr", learning_rte=1)
    with pytest.raises(TypeError, match=r"recipe 'csr' has no setting \['refit'\]"):
        recipe("csr", refit=3)
