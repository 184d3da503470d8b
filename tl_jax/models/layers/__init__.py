"""The layers that networks are built of, with torch's arithmetic, by subject.

Images and feature maps are channels-last, [batch, height, width, channels]. Parameters and
running statistics are always float32; `dtype` is the type a layer computes in and returns.
"""

from tl_jax.models.layers.activations import (
    Activation,
    gelu,
    gelu_tanh,
    hard_sigmoid,
    hard_swish,
    identity,
    relu,
    relu6,
    sigmoid,
    silu,
)
from tl_jax.models.layers.attention import (
    EffectiveSE,
    EfficientChannelAttention,
    GlobalContext,
    SEModule,
    SqueezeExcite,
)
from tl_jax.models.layers.calls import (
    WITH_STATISTICS,
    WITH_TRAINING_MODE,
    Interceptor,
    around_calls,
    around_methods,
    collecting,
    evaluating,
    rematerialising,
)
from tl_jax.models.layers.conv import (
    Conv,
    Padding,
    ScaledStdConv,
    StdConv,
    convolve,
)
from tl_jax.models.layers.convolution import convolution_form
from tl_jax.models.layers.dense import Dense
from tl_jax.models.layers.drop import DropBlock, Dropout, DropPath
from tl_jax.models.layers.folding import fold_norms, folded, folded_norm
from tl_jax.models.layers.initializers import (
    goog_fan_out,
    kaiming_fan_in,
    kaiming_fan_out,
    torch_default,
    trunc_normal,
)
from tl_jax.models.layers.norm import (
    BatchNorm,
    EvoNormB0,
    EvoNormS0,
    FilterResponseNorm,
    GroupNorm,
    LayerNorm,
    RmsNorm,
)
from tl_jax.models.layers.pool import (
    AvgPool,
    BlurPool,
    MaxPool,
    adaptive_average,
    global_average,
)
from tl_jax.models.layers.tracing import as_shapes
from tl_jax.models.layers.types import (
    Act,
    Bound,
    Dtype,
    Initializer,
    at_least_float32,
    make_divisible,
)

__all__ = [
    "WITH_STATISTICS",
    "WITH_TRAINING_MODE",
    "Act",
    "Activation",
    "AvgPool",
    "BatchNorm",
    "BlurPool",
    "Bound",
    "Conv",
    "Dense",
    "DropBlock",
    "DropPath",
    "Dropout",
    "Dtype",
    "EffectiveSE",
    "EfficientChannelAttention",
    "EvoNormB0",
    "EvoNormS0",
    "FilterResponseNorm",
    "GlobalContext",
    "GroupNorm",
    "Initializer",
    "Interceptor",
    "LayerNorm",
    "MaxPool",
    "Padding",
    "RmsNorm",
    "SEModule",
    "ScaledStdConv",
    "SqueezeExcite",
    "StdConv",
    "adaptive_average",
    "around_calls",
    "around_methods",
    "as_shapes",
    "at_least_float32",
    "collecting",
    "convolution_form",
    "convolve",
    "evaluating",
    "fold_norms",
    "folded",
    "folded_norm",
    "gelu",
    "gelu_tanh",
    "global_average",
    "goog_fan_out",
    "hard_sigmoid",
    "hard_swish",
    "identity",
    "kaiming_fan_in",
    "kaiming_fan_out",
    "make_divisible",
    "relu",
    "relu6",
    "rematerialising",
    "sigmoid",
    "silu",
    "torch_default",
    "trunc_normal",
]
