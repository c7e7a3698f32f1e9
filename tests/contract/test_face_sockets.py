"""What other nodes say about faces: core's BOUNDING_BOX in all its shapes, MediaPipe's FACE_LANDMARKS, masks."""

import numpy as np
import pytest
import skimage.data
import torch

BOX = {"x": 160, "y": 55, "width": 90, "height": 120}
CORNERS = (160, 55, 250, 175)


@pytest.fixture(scope="module")
def node(pack):
    """The module of Detect Faces, which reads the sockets."""
    return pack.nodes.faces


@pytest.fixture(scope="module")
def photos(pack):
    return torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None].float().div(255)


@pytest.mark.parametrize(
    ("bboxes", "count", "expected"),
    [
        (BOX, 2, [[CORNERS], [CORNERS]]),
        ([BOX], 1, [[CORNERS]]),
        ([BOX, BOX], 2, [[CORNERS, CORNERS]] * 2),
        ([[BOX], [BOX, BOX]], 2, [[CORNERS], [CORNERS, CORNERS]]),
        ([[]], 1, [[]]),
        ([], 2, [[], []]),
        (None, 2, None),
    ],
)
def test_boxes_come_as_one_as_a_list_and_as_a_list_for_each_image(node, bboxes, count, expected):
    assert node.boxes_per_image(bboxes, count, "Crop Face") == expected


@pytest.mark.parametrize("value", [7, 1.5, True, "a face", ["a face"], [["a face"]], {"faces": []}])
def test_what_is_no_faces_is_refused_with_a_sentence(pack, node, photos, value):
    """As a workflow that was edited by hand, or made by a program, may have it."""
    with pytest.raises(pack.core.ProtectionError, match="is no FACEPROTECT_FACES.*How to fix"):
        node.FaceSelector(photos, "all", "Protect Photo", faces=value)
    photo = photos.permute(0, 2, 3, 1)
    with pytest.raises(pack.core.ProtectionError, match="Verify Protection: .*is no FACEPROTECT_FACES.*How to fix"):
        pack.nodes.verify.VerifyProtection.execute(photo, photo, faces=value)


def test_boxes_of_another_batch_are_refused(pack, node):
    with pytest.raises(pack.core.ProtectionError, match="boxes of 2 images are connected, and 3 images.*How to fix"):
        node.boxes_per_image([[BOX], [BOX]], 3, "Crop Face")


@pytest.mark.parametrize("odd", [3, "a", True, [1.5], [[1, 2, 3, 4]], [{"x": 1}], {"left": 1}, [{**BOX, "x": "a"}]])
def test_what_is_no_box_is_refused(pack, node, odd):
    with pytest.raises(pack.core.ProtectionError, match="no BOUNDING_BOX.*How to fix"):
        node.boxes_per_image(odd, 1, "Crop Face")


@pytest.mark.parametrize("odd", [3, "a", None, [], np.zeros((1, 4, 4, 3))])
def test_what_is_no_image_and_no_mask_is_refused(pack, node, photos, odd):
    with pytest.raises(pack.core.ProtectionError, match="expects an IMAGE.*How to fix"):
        pack.host.to_core_image(odd, "Crop Face")
    if odd is not None:
        with pytest.raises(pack.core.ProtectionError, match="is no MASK.*How to fix"):
            node.FaceSelector(photos, "all", "Crop Face", mask=odd)


def selected(node, photos, which="all", **found):
    return node.FaceSelector(photos, which, "Crop Face", **found)(0)


def media_pipe(points) -> dict:
    """What core's Detect Face Landmarks gives: 478 points for each face of each image."""
    landmarks = np.zeros((478, 2), np.float32)
    landmarks[[263, 362, 33, 133, 2]] = points
    return {"frames": [[{"landmarks_xy": landmarks, "score": 0.8, "bbox_xyxy": np.zeros(4)}]], "image_size": (512, 512)}


def test_core_really_names_its_landmarks_so(comfyui_installation):
    """The shape that media_pipe() above copies, read in the host's own source."""
    source = (comfyui_installation.folder / "comfy_extras/nodes_mediapipe.py").read_text()
    assert 'io.Custom("FACE_LANDMARKS")' in source
    assert '{"frames": frames' in source and '"landmarks_xy"' in source


def test_mediapipes_landmarks_are_the_detectors_own(pack, node, photos):
    face = pack.core.faces.find_face(photos[0])
    selection = selected(node, photos, face_landmarks=media_pipe(face.landmarks))
    assert np.array(selection.chosen[0].landmarks) == pytest.approx(np.array(face.landmarks), abs=1e-3)


def test_faces_and_landmarks_together_are_refused(pack, node, photos):
    with pytest.raises(pack.core.ProtectionError, match="both connected.*How to fix"):
        selected(node, photos, faces=[[]], face_landmarks=media_pipe(np.zeros((5, 2))))


def test_an_image_without_any_landmarks_is_refused(pack, node, photos):
    with pytest.raises(pack.core.ProtectionError, match="Crop Face, image 1 of 1: no face found"):
        selected(node, photos, face_landmarks={"frames": [[]], "image_size": (512, 512)})


def test_one_mask_is_for_every_photo_and_another_number_is_refused(pack, node, photos):
    two = photos.expand(2, -1, -1, -1)
    selector = node.FaceSelector(two, "all", "Crop Face", mask=torch.ones(1, 512, 512))
    assert [len(selector(index).chosen) for index in (0, 1)] == [1, 1]
    with pytest.raises(pack.core.ProtectionError, match="3 masks are connected, and 2 images"):
        node.FaceSelector(two, "all", "Crop Face", mask=torch.ones(3, 512, 512))


def test_alpha_comes_back_as_it_was_and_what_it_erased_is_gone(pack):
    rgba = torch.rand(2, 10, 12, 4, generator=torch.Generator().manual_seed(0))
    rgba[..., 3] = 0.1 + 0.9 * rgba[..., 3]
    rgba[:, :5, :5, 3] = 0
    rgba[:, 0, 0, 3] = 7 / 255  # what a soft eraser leaves
    planes = pack.host.to_core_image(rgba, "here")
    erased = rgba[0, ..., 3] == 0
    assert planes.shape == (2, 3, 10, 12) and erased.sum() == 24 and planes[:, :, erased].eq(1).all()
    again = pack.host.to_comfy_image(planes, like=rgba)
    assert torch.equal(again[..., 3], rgba[..., 3]) and again[:, :5, :5, :3].eq(1).all()
    assert torch.equal(again[:, 5:], rgba[:, 5:]) and torch.equal(again[:, :, 5:], rgba[:, :, 5:])
    assert pack.host.to_comfy_image(planes, like=rgba[..., :3]).shape == (2, 10, 12, 3)
