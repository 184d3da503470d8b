"""HardCoRe-NAS (arXiv:2102.11646), under the names of timm's `hardcorenas.py`.

A search with hard bounds on latency chose the blocks; network and head are MobileNetV3's.
"""

from tl_jax.models.architecture import Architecture
from tl_jax.models.families.efficientnet_builder import define, feature_modules
from tl_jax.models.families.mobilenetv3 import MobileNetV3

_A = define("""
ds_r1_k3_s1_e1_c16_nre
ir_r1_k5_s2_e3_c24_nre ir_r1_k5_s1_e3_c24_nre_se0.25
ir_r1_k5_s2_e3_c40_nre ir_r1_k5_s1_e6_c40_nre_se0.25
ir_r1_k5_s2_e6_c80_se0.25 ir_r1_k5_s1_e6_c80_se0.25
ir_r2_k5_s1_e6_c112_se0.25
ir_r1_k5_s2_e6_c192_se0.25 ir_r1_k5_s1_e6_c192_se0.25
cn_r1_k1_s1_c960
""")
_B = define("""
ds_r1_k3_s1_e1_c16_nre
ir_r1_k5_s2_e3_c24_nre ir_r1_k5_s1_e3_c24_nre_se0.25 ir_r1_k3_s1_e3_c24_nre
ir_r1_k5_s2_e3_c40_nre ir_r2_k5_s1_e3_c40_nre
ir_r1_k5_s2_e3_c80 ir_r1_k5_s1_e3_c80 ir_r2_k3_s1_e3_c80
ir_r1_k5_s1_e3_c112 ir_r3_k3_s1_e3_c112
ir_r1_k5_s2_e6_c192_se0.25 ir_r1_k5_s1_e6_c192_se0.25 ir_r1_k3_s1_e3_c192_se0.25
cn_r1_k1_s1_c960
""")
_C = define("""
ds_r1_k3_s1_e1_c16_nre
ir_r1_k5_s2_e3_c24_nre ir_r1_k5_s1_e3_c24_nre_se0.25
ir_r1_k5_s2_e3_c40_nre ir_r3_k5_s1_e3_c40_nre
ir_r1_k5_s2_e4_c80 ir_r1_k5_s1_e6_c80_se0.25 ir_r2_k3_s1_e3_c80
ir_r1_k5_s1_e6_c112_se0.25 ir_r3_k3_s1_e3_c112
ir_r1_k5_s2_e6_c192_se0.25 ir_r1_k5_s1_e6_c192_se0.25 ir_r1_k3_s1_e3_c192_se0.25
cn_r1_k1_s1_c960
""")
_D = define("""
ds_r1_k3_s1_e1_c16_nre
ir_r1_k5_s2_e3_c24_nre_se0.25 ir_r1_k5_s1_e3_c24_nre_se0.25
ir_r1_k5_s2_e3_c40_nre_se0.25 ir_r1_k5_s1_e4_c40_nre_se0.25 ir_r1_k3_s1_e3_c40_nre_se0.25
ir_r1_k5_s2_e4_c80_se0.25 ir_r3_k3_s1_e3_c80_se0.25
ir_r1_k3_s1_e4_c112_se0.25 ir_r1_k5_s1_e4_c112_se0.25 ir_r1_k3_s1_e3_c112_se0.25 \
    ir_r1_k5_s1_e3_c112_se0.25
ir_r1_k5_s2_e6_c192_se0.25 ir_r2_k5_s1_e6_c192_se0.25 ir_r1_k3_s1_e6_c192_se0.25
cn_r1_k1_s1_c960
""")
_E = define("""
ds_r1_k3_s1_e1_c16_nre
ir_r1_k5_s2_e3_c24_nre_se0.25 ir_r1_k5_s1_e3_c24_nre_se0.25
ir_r1_k5_s2_e6_c40_nre_se0.25 ir_r2_k5_s1_e4_c40_nre_se0.25 ir_r1_k3_s1_e3_c40_nre_se0.25
ir_r1_k5_s2_e4_c80_se0.25 ir_r1_k3_s1_e6_c80_se0.25
ir_r3_k5_s1_e6_c112_se0.25 ir_r1_k5_s1_e3_c112_se0.25
ir_r1_k5_s2_e6_c192_se0.25 ir_r2_k5_s1_e6_c192_se0.25 ir_r1_k3_s1_e6_c192_se0.25
cn_r1_k1_s1_c960
""")
_F = define("""
ds_r1_k3_s1_e1_c16_nre
ir_r1_k5_s2_e3_c24_nre_se0.25 ir_r1_k5_s1_e3_c24_nre_se0.25
ir_r1_k5_s2_e6_c40_nre_se0.25 ir_r1_k5_s1_e6_c40_nre_se0.25
ir_r1_k5_s2_e6_c80_se0.25 ir_r1_k5_s1_e6_c80_se0.25 ir_r2_k3_s1_e3_c80_se0.25
ir_r1_k3_s1_e6_c112_se0.25 ir_r2_k5_s1_e6_c112_se0.25 ir_r1_k3_s1_e3_c112_se0.25
ir_r1_k5_s2_e6_c192_se0.25 ir_r1_k5_s1_e6_c192_se0.25 ir_r2_k3_s1_e6_c192_se0.25
cn_r1_k1_s1_c960
""")

NETWORKS: dict[str, MobileNetV3] = {
    "hardcorenas_a": MobileNetV3(definition=_A, stem_width=32),
    "hardcorenas_b": MobileNetV3(definition=_B, stem_width=32),
    "hardcorenas_c": MobileNetV3(definition=_C, stem_width=32),
    "hardcorenas_d": MobileNetV3(definition=_D, stem_width=32),
    "hardcorenas_e": MobileNetV3(definition=_E, stem_width=32),
    "hardcorenas_f": MobileNetV3(definition=_F, stem_width=32),
}

ARCHITECTURES = {
    name: Architecture(network, stem="conv_stem", stages=feature_modules(network.definition))
    for name, network in NETWORKS.items()
}
