"""HardCoRe-NAS (arXiv:2102.11646), under the names of timm's `hardcorenas.py`.

A search with hard bounds on latency chose the blocks; network and head are MobileNetV3's.
"""

import functools

from tl_jax.models.families.mobilenetv3 import MobileNetV3, architecture, define

_DEFINITIONS = {
    "hardcorenas_a": define(
        "ds_r1_k3_s1_e1_c16_nre",
        "ir_r1_k5_s2_e3_c24_nre ir_r1_k5_s1_e3_c24_nre_se0.25",
        "ir_r1_k5_s2_e3_c40_nre ir_r1_k5_s1_e6_c40_nre_se0.25",
        "ir_r1_k5_s2_e6_c80_se0.25 ir_r1_k5_s1_e6_c80_se0.25",
        "ir_r2_k5_s1_e6_c112_se0.25",
        "ir_r1_k5_s2_e6_c192_se0.25 ir_r1_k5_s1_e6_c192_se0.25",
        "cn_r1_k1_s1_c960",
    ),
    "hardcorenas_b": define(
        "ds_r1_k3_s1_e1_c16_nre",
        "ir_r1_k5_s2_e3_c24_nre ir_r1_k5_s1_e3_c24_nre_se0.25 ir_r1_k3_s1_e3_c24_nre",
        "ir_r1_k5_s2_e3_c40_nre ir_r2_k5_s1_e3_c40_nre",
        "ir_r1_k5_s2_e3_c80 ir_r1_k5_s1_e3_c80 ir_r2_k3_s1_e3_c80",
        "ir_r1_k5_s1_e3_c112 ir_r3_k3_s1_e3_c112",
        "ir_r1_k5_s2_e6_c192_se0.25 ir_r1_k5_s1_e6_c192_se0.25 ir_r1_k3_s1_e3_c192_se0.25",
        "cn_r1_k1_s1_c960",
    ),
    "hardcorenas_c": define(
        "ds_r1_k3_s1_e1_c16_nre",
        "ir_r1_k5_s2_e3_c24_nre ir_r1_k5_s1_e3_c24_nre_se0.25",
        "ir_r1_k5_s2_e3_c40_nre ir_r3_k5_s1_e3_c40_nre",
        "ir_r1_k5_s2_e4_c80 ir_r1_k5_s1_e6_c80_se0.25 ir_r2_k3_s1_e3_c80",
        "ir_r1_k5_s1_e6_c112_se0.25 ir_r3_k3_s1_e3_c112",
        "ir_r1_k5_s2_e6_c192_se0.25 ir_r1_k5_s1_e6_c192_se0.25 ir_r1_k3_s1_e3_c192_se0.25",
        "cn_r1_k1_s1_c960",
    ),
    "hardcorenas_d": define(
        "ds_r1_k3_s1_e1_c16_nre",
        "ir_r1_k5_s2_e3_c24_nre_se0.25 ir_r1_k5_s1_e3_c24_nre_se0.25",
        "ir_r1_k5_s2_e3_c40_nre_se0.25 ir_r1_k5_s1_e4_c40_nre_se0.25 ir_r1_k3_s1_e3_c40_nre_se0.25",
        "ir_r1_k5_s2_e4_c80_se0.25 ir_r3_k3_s1_e3_c80_se0.25",
        "ir_r1_k3_s1_e4_c112_se0.25 ir_r1_k5_s1_e4_c112_se0.25 ir_r1_k3_s1_e3_c112_se0.25 "
        "ir_r1_k5_s1_e3_c112_se0.25",
        "ir_r1_k5_s2_e6_c192_se0.25 ir_r2_k5_s1_e6_c192_se0.25 ir_r1_k3_s1_e6_c192_se0.25",
        "cn_r1_k1_s1_c960",
    ),
    "hardcorenas_e": define(
        "ds_r1_k3_s1_e1_c16_nre",
        "ir_r1_k5_s2_e3_c24_nre_se0.25 ir_r1_k5_s1_e3_c24_nre_se0.25",
        "ir_r1_k5_s2_e6_c40_nre_se0.25 ir_r2_k5_s1_e4_c40_nre_se0.25 ir_r1_k3_s1_e3_c40_nre_se0.25",
        "ir_r1_k5_s2_e4_c80_se0.25 ir_r1_k3_s1_e6_c80_se0.25",
        "ir_r3_k5_s1_e6_c112_se0.25 ir_r1_k5_s1_e3_c112_se0.25",
        "ir_r1_k5_s2_e6_c192_se0.25 ir_r2_k5_s1_e6_c192_se0.25 ir_r1_k3_s1_e6_c192_se0.25",
        "cn_r1_k1_s1_c960",
    ),
    "hardcorenas_f": define(
        "ds_r1_k3_s1_e1_c16_nre",
        "ir_r1_k5_s2_e3_c24_nre_se0.25 ir_r1_k5_s1_e3_c24_nre_se0.25",
        "ir_r1_k5_s2_e6_c40_nre_se0.25 ir_r1_k5_s1_e6_c40_nre_se0.25",
        "ir_r1_k5_s2_e6_c80_se0.25 ir_r1_k5_s1_e6_c80_se0.25 ir_r2_k3_s1_e3_c80_se0.25",
        "ir_r1_k3_s1_e6_c112_se0.25 ir_r2_k5_s1_e6_c112_se0.25 ir_r1_k3_s1_e3_c112_se0.25",
        "ir_r1_k5_s2_e6_c192_se0.25 ir_r1_k5_s1_e6_c192_se0.25 ir_r2_k3_s1_e6_c192_se0.25",
        "cn_r1_k1_s1_c960",
    ),
}

ARCHITECTURES = {
    name: architecture(functools.partial(MobileNetV3, stem_width=32), blocks)
    for name, blocks in _DEFINITIONS.items()
}
