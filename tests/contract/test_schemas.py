"""The nodes as ComfyUI shows them: ids, tooltips, and the paper's settings as defaults."""

import pytest

NODES = {
    "FaceProtectDDIMInversion": "DDIM Inversion",
    "FaceProtectNullTextLearner": "Null-Text Embedding Learner",
    "FaceProtectSelfAttentionCapture": "Self-Attention Capture",
    "FaceProtectFRSurrogateLoss": "FR Surrogate Loss",
    "FaceProtectLatentOptimizer": "Adversarial Latent Optimizer",
    "FaceProtectLoadSurrogate": "Load FR Surrogate",
    "FaceProtectDetectFaces": "Detect Faces",
    "FaceProtectLoadDemoModel": "Load Demo Model",
}
PAPER = {
    "FaceProtectDDIMInversion": {"depth": 3, "pairing": "published", "num_inference_steps": 20, "steps_offset": 1},
    "FaceProtectNullTextLearner": {"iterations": 20, "learning_rate": 0.1},
    "FaceProtectFRSurrogateLoss": {"reduction": "sum", "stop_at_margin": False},
    "FaceProtectLatentOptimizer": {
        "iterations": 35,
        "learning_rate": 0.01,
        "objective_weight": 0.003,
        "fidelity_weight": 0.0,
        "output": "published",
    },
}


@pytest.fixture(scope="module")
def schemas(comfyui) -> dict:
    return {name: info for name, info in comfyui.object_info().items() if name.startswith("FaceProtect")}


def inputs_of(info: dict) -> dict[str, list]:
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def test_the_nodes_are_these_and_are_called_like_the_papers_blocks(schemas):
    assert {name: info["display_name"] for name, info in schemas.items()} == NODES
    assert {info["category"] for info in schemas.values()} == {"FaceProtect"}


@pytest.mark.parametrize("name", NODES)
def test_every_input_and_output_says_what_it_is(schemas, name):
    info = schemas[name]
    assert info["description"]
    for key, (_, options, *_) in inputs_of(info).items():
        assert options.get("tooltip"), f"{name}.{key} has no tooltip"
    assert len(info["output_tooltips"]) == len(info["output"]) and all(info["output_tooltips"])


@pytest.mark.parametrize("name", PAPER)
def test_defaults_are_the_papers_settings(schemas, name):
    found = {
        key: options["default"] for key, (_, options, *_) in inputs_of(schemas[name]).items() if "default" in options
    }
    assert {key: found[key] for key in PAPER[name]} == PAPER[name]


def test_dodging_is_the_default_mode(schemas):
    _, mode = inputs_of(schemas["FaceProtectFRSurrogateLoss"])["mode"]
    assert mode["default"] == "dodge"
