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
# # Quick start
#
# A network with ImageNet weights names what is in a photograph. Then it is fine-tuned on photographs
# of solar cells, which resemble nothing in ImageNet. It takes a minute on two CPU cores.

# %%
import skimage.data
from IPython.display import Image

import tl_jax

# %% [markdown]
# The network is timm's `tf_efficientnet_lite0` as a pure function, with the same weights as a pytree.
# `preprocess` does what timm does before evaluation.

# %%
name = "tf_efficientnet_lite0"
model, variables = tl_jax.load_pretrained(name, verbose=False)
config = tl_jax.pretrained_config(name)
images = tl_jax.preprocess([skimage.data.chelsea(), skimage.data.coffee()], config)
logits = model.apply(variables, images)
images.shape, logits.shape

# %% [markdown]
# `predict` does all of it: it reads the pictures, runs the network, and names the classes.

# %%
for found in tl_jax.predict(name, [skimage.data.chelsea(), skimage.data.coffee()]):
    print(", ".join(f"{label} {probability:.2f}" for label, probability in found[:3]))

# %% [markdown]
# Now the solar cells: 150 photographs of each class, 96 pixels, one epoch of the new head and three
# of all layers. A configuration holds everything that decides the result, and is saved with the run.

# %%
cells = tl_jax.Config(
    model=tl_jax.ModelConfig(name),
    data=tl_jax.DataConfig("elpv", test_split="test", image_size=96, shots=150),
    augment=tl_jax.AugmentConfig(scale=(0.6, 1.0), vertical_flip=True),
    train=tl_jax.TrainConfig(head_epochs=1, epochs=3),
)
report = tl_jax.fit(cells, "runs/quick_start")

# %% [markdown]
# The report holds the metrics of the best epoch, with 95% intervals over the test images.

# %%
test = report["metrics"]["test"]
low, high = test["accuracy_interval"]
print(f"accuracy {test['accuracy']:.3f} ({low:.3f} to {high:.3f}) on {test['count']} images")
print(f"balanced {test['balanced_accuracy']:.3f}, always 'functional' would have 0.500")

# %%
Image("runs/quick_start/curves.png", width=700)

# %% [markdown]
# The run's folder is all that prediction needs: classes, preprocessing and weights are in it. These are
# the first five cells of the test split.

# %%
for found in tl_jax.predict("runs/quick_start", source="elpv", split="test")[:5]:
    print(", ".join(f"{label} {probability:.2f}" for label, probability in found))

# %% [markdown]
# Four epochs on 300 photographs end well above chance. The notebooks `freeze_depth` and `strategies` compare
# what to train, and `explain_errors` looks at what is still wrong.
