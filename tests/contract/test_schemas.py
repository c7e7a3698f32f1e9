"""The nodes as ComfyUI sees them: ids that are never renamed, a tooltip on everything, the paper's settings."""

import asyncio
import inspect

import pytest

IDS = {
    "FaceProtectDDIMInversion": "DDIM Inversion",
    "FaceProtectNullTextLearner": "Null-Text Embedding Learner",
    "FaceProtectSelfAttentionCapture": "Self-Attention Capture",
    "FaceProtectFRSurrogateLoss": "FR Surrogate Loss",
    "FaceProtectLatentOptimizer": "Adversarial Latent Optimizer",
    "FaceProtectLoadSurrogate": "Load FR Surrogate",
    "FaceProtectDetectFaces": "Detect Faces",
    "FaceProtectCropFace": "Crop Face",
    "FaceProtectPasteFace": "Paste Face Back",
    "FaceProtectProtectPhoto": "Protect Photo",
    "FaceProtectSaveImage": "Save Protected Image",
    "FaceProtectLoadDemoModel": "Load Demo Model",
    "FaceProtectLightAndShade": "Light and Shade",
    "FaceProtectMakeupReference": "Makeup Reference",
    "FaceProtectPixelAttack": "Pixel-Space Attack",
    "FaceProtectPerformance": "Performance Settings",
    "FaceProtectVerify": "Verify Protection",
    "FaceProtectVerifyRobustness": "Verify Robustness",
}
# Section 4.1 of the paper, and the released code where the paper is silent.
PAPER = {
    "FaceProtectDDIMInversion": {"depth": 3, "pairing": "published", "num_inference_steps": 20, "steps_offset": 1},
    "FaceProtectNullTextLearner": {"iterations": 20, "learning_rate": 0.1},
    "FaceProtectLatentOptimizer": {
        "iterations": 35, "learning_rate": 0.01, "objective_weight": 0.003, "fidelity_weight": 0.0,
        "output": "published", "keep_colours": False, "early_stop": False,
        "least_change": False,
    },
    "FaceProtectFRSurrogateLoss": {
        "reduction": "sum", "stop_at_margin": False, "jitter": 0, "steepness": 0.0, "weights": "",
        "average_targets": False,
    },
}  # fmt: skip
# Saved workflows hold widget values by position: new widgets go to the end. They are optional there, since workflows
# in API format that were saved before lack them.
WIDGETS = {
    "FaceProtectDDIMInversion": ["depth", "pairing", "num_inference_steps", "steps_offset"],
    "FaceProtectNullTextLearner": ["iterations", "learning_rate"],
    "FaceProtectSelfAttentionCapture": [],
    "FaceProtectFRSurrogateLoss": [
        "mode",
        "framing",
        "reduction",
        "stop_at_margin",
        "margin",
        "jitter",
        "jitter_seed",
        "steepness",
        "weights",
        "average_targets",
    ],
    "FaceProtectLatentOptimizer": [
        "iterations",
        "output",
        "learning_rate",
        "objective_weight",
        "fidelity_weight",
        "keep_colours",
        "early_stop",
        "least_change",
    ],
    "FaceProtectLoadSurrogate": ["surrogate", "threshold"],
    "FaceProtectDetectFaces": ["threshold", "mask_scale", "min_face"],
    "FaceProtectCropFace": ["size", "which", "numbers", "crop_scale", "upright", "mask_scale"],
    "FaceProtectPasteFace": ["strength"],
    "FaceProtectProtectPhoto": ["preset", "way", "judge", "goal", "size", "which", "numbers", "on_failure"],
    "FaceProtectSaveImage": ["filename_prefix", "format", "quality"],
    "FaceProtectLoadDemoModel": [],
    "FaceProtectLightAndShade": [
        "iterations",
        "grid",
        "fidelity_weight",
        "learning_rate",
        "early_stop",
        "seed",
        "least_change",
    ],
    "FaceProtectMakeupReference": ["weight", "lips", "eye_shadow", "skin"],
    "FaceProtectPixelAttack": ["method", "epsilon", "iterations", "seed"],
    "FaceProtectPerformance": [
        "precision",
        "memory",
        "gradient_tile",
        "faces_at_once",
        "cuda_graphs",
        "taesd_if_installed",
    ],
    "FaceProtectVerify": [],
    "FaceProtectVerifyRobustness": [],
}
EXPERT_KNOBS = {"num_inference_steps", "steps_offset", "learning_rate", "objective_weight", "fidelity_weight"}
NOT_FOLDED = {("FaceProtectLightAndShade", "fidelity_weight")}  # the main knob there


@pytest.fixture(scope="module")
def nodes(pack) -> dict:
    """Node id -> node class, by the way that ComfyUI takes."""

    async def load() -> list:
        return await (await pack.root.comfy_entrypoint()).get_node_list()

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(load())}


@pytest.fixture(scope="module")
def schemas(nodes) -> dict:
    return {node_id: node.define_schema() for node_id, node in nodes.items()}


def widgets(schema) -> list:
    from comfy_api.latest import io

    inputs = [one for one in schema.inputs if isinstance(one, io.WidgetInput)]
    return [one for one in inputs if not getattr(one, "force_input", None)]  # a socket that shows no widget


def test_the_ids_and_the_blocks_names_are_those_of_the_design(schemas):
    assert {node_id: schema.display_name for node_id, schema in schemas.items()} == IDS


def test_every_node_says_what_it_does_and_where_it_stands(schemas):
    for node_id, schema in schemas.items():
        assert schema.category == "FaceProtect", node_id
        assert len(schema.description) > 40, node_id
        assert "faceprotect" in schema.search_aliases, node_id


def test_every_input_and_output_has_a_tooltip(schemas):
    for node_id, schema in schemas.items():
        for one in (*schema.inputs, *schema.outputs):
            assert one.tooltip and one.tooltip.endswith("."), (node_id, one)


def test_the_defaults_are_the_papers(schemas):
    for node_id, expected in PAPER.items():
        found = {one.id: one.default for one in schemas[node_id].inputs if one.id in expected}
        assert found == expected, node_id


def test_the_core_has_the_same_defaults(pack):
    """What the canvas does and what the library does by default is the same."""
    functions = {
        "FaceProtectDDIMInversion": (pack.core.ddim_invert, {}),
        "FaceProtectNullTextLearner": (pack.core.learn_null_text, {"learning_rate": "lr"}),
        "FaceProtectLatentOptimizer": (pack.core.optimize_latent, {"learning_rate": "lr"}),
    }
    for node_id, (function, names) in functions.items():
        known = inspect.signature(function).parameters
        for name, value in PAPER[node_id].items():
            name = names.get(name, name)
            assert name not in known or known[name].default == value, (node_id, name)


def test_no_widget_has_moved(schemas):
    assert {node_id: [one.id for one in widgets(schema)] for node_id, schema in schemas.items()} == WIDGETS


def test_every_number_has_bounds_that_hold_its_default(schemas):
    for node_id, schema in schemas.items():
        for one in widgets(schema):
            if isinstance(one.default, (int, float)) and not isinstance(one.default, bool):
                assert one.min <= one.default <= one.max, (node_id, one.id)


def test_expert_knobs_are_folded_away(schemas):
    for node_id, schema in schemas.items():
        for one in widgets(schema):
            folded = one.id in EXPERT_KNOBS and (node_id, one.id) not in NOT_FOLDED
            assert one.advanced or not folded, (node_id, one.id)


def test_every_node_takes_exactly_the_inputs_that_it_declares(nodes, schemas):
    for node_id, node in nodes.items():
        arguments = inspect.signature(node.execute).parameters
        assert set(arguments) == {one.id for one in schemas[node_id].inputs}, node_id
        defaults = {one.id: one.default for one in widgets(schemas[node_id])}
        optional = {one.id: defaults.get(one.id) for one in schemas[node_id].inputs if one.optional}
        assert {n: one.default for n, one in arguments.items() if one.default is not one.empty} == optional, node_id
