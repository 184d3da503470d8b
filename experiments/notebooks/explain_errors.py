# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Explaining errors
#
# Where is a fine-tuned network wrong, are the labels right, and what does it look at?

# %%
import io
from pathlib import Path

import numpy as np
import PIL.Image
from elpv_dataset.utils import load_dataset
from IPython.display import Image

import tl_jax
from tl_jax.explanations import overlay


def show(path, width=800):
    """Shows a picture as a small JPEG."""
    picture = PIL.Image.open(path).convert("RGB")
    picture.thumbnail((width, 2 * width))
    picture.save(small := io.BytesIO(), "jpeg")
    return Image(small.getvalue())


# %% [markdown]
# A short run on solar cells. `%%capture` hides the lines in which it tells what it does.

# %%
# %%capture
config = tl_jax.Config(
    model=tl_jax.ModelConfig("tf_efficientnet_lite0"),
    data=tl_jax.DataConfig("elpv", test_split="test", image_size=96, shots=150),
    augment=tl_jax.AugmentConfig(scale=(0.6, 1.0), vertical_flip=True),
    train=tl_jax.TrainConfig(head_epochs=1, epochs=3),
)
tl_jax.fit(config, "runs/cells")
found = tl_jax.errors(
    "runs/cells", slices_by=["cell_type"], top=6, cache_dir="runs/features", to="runs/errors"
)

# %% [markdown]
# The metrics of each kind of cell. The run never saw this column.

# %%
task = found["tasks"]["label"]
for row in task["slices"]["cell_type"]:
    low, high = row["intervals"]["balanced_accuracy"]
    balanced = row["metrics"]["balanced_accuracy"]
    print(f"{row['name']}: {row['count']} cells, balanced {balanced:.3f} ({low:.3f} to {high:.3f})")

# %% [markdown]
# The largest losses: most are cells that experts call defective and the network takes for sound. Confident
# learning suspects some of the labels; whether it is right a person must say.

# %%
issues = task["label_issues"]
print(f"{issues['count']} of {issues['checked']} labels of the test split are suspected")
show("runs/errors/top_losses.png")

# %% [markdown]
# What speaks for "defective" in the first four cells that are labelled so, whatever their split. Images of
# 96 pixels have maps of 3 x 3 in the last stage, so Grad-CAM is coarse; integrated gradients follow the cracks.

# %%
images, probability, _ = load_dataset()
defective = [np.stack([image] * 3, axis=-1) for image in images[probability == 1][:4]]
explained = tl_jax.explain(
    "runs/cells", defective, method=["grad_cam", "integrated_gradients"], target="defective"
)
[picture] = overlay.draw(explained, Path("runs/maps.png"))
show(picture, width=500)

# %% [markdown]
# A map is a question, and no proof: `docs/explain.md` says how faithfulness is measured. A page with
# all of this is written by `python -m tl_jax report runs/cells`.
