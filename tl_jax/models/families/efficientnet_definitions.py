"""The definitions of the EfficientNets and their relatives: each stage's blocks, as strings.

They are those of timm's `efficientnet.py`; `decode_block` of `efficientnet_builder.py` explains
their syntax. A line is a stage. Depths and widths are those before scaling.
"""

from tl_jax.models.families.efficientnet_builder import Definition, define

_EFFICIENTNET = """
ds_r1_k3_s1_e1_c16_se0.25
ir_r2_k3_s2_e6_c24_se0.25
ir_r2_k5_s2_e6_c40_se0.25
ir_r3_k3_s2_e6_c80_se0.25
ir_r3_k5_s1_e6_c112_se0.25
ir_r4_k5_s2_e6_c192_se0.25
ir_r1_k3_s1_e6_c320_se0.25
"""

# arXiv:1905.11946; Lite has no squeeze-excite, CondConv (arXiv:1904.04971) is in the late stages.
EFFICIENTNET = define(_EFFICIENTNET)
EFFICIENTNET_LITE = define(_EFFICIENTNET.replace("_se0.25", ""))
EFFICIENTNET_CONDCONV = EFFICIENTNET[:4] + tuple(
    tuple(f"{string}_cc4" for string in stage) for stage in EFFICIENTNET[4:]
)

# For the Edge TPU. The first block counts its expansion from the width that it returns.
EFFICIENTNET_EDGE = define("""
er_r1_k3_s1_e4_c24_fc24_noskip
er_r2_k3_s2_e8_c32
er_r4_k3_s2_e8_c48
ir_r5_k5_s2_e8_c96
ir_r4_k5_s1_e8_c144
ir_r2_k5_s2_e8_c192
""")

# EfficientNet-X (arXiv:2102.05610), which begins by moving space to depth, and its successor H.
_EFFICIENTNET_X = """
ds_r1_k3_s1_e1_c16_se0.25_d1
er_r2_k3_s2_e{expansion}_c24_se0.25_nre
er_r2_k5_s2_e{expansion}_c40_se0.25_nre
ir_r3_k3_s2_e{expansion}_c80_se0.25
ir_r3_k5_s1_e6_c112_se0.25
ir_r4_k5_s2_e6_c192_se0.25
ir_r1_k3_s1_e6_c320_se0.25
"""
EFFICIENTNET_X = define(_EFFICIENTNET_X.format(expansion=6))
EFFICIENTNET_H = define(_EFFICIENTNET_X.format(expansion=4))

# EfficientNetV2 (arXiv:2104.00298): the base that is scaled to b0 to b3, and the larger ones.
EFFICIENTNETV2_BASE = define("""
cn_r1_k3_s1_e1_c16_skip
er_r2_k3_s2_e4_c32
er_r2_k3_s2_e4_c48
ir_r3_k3_s2_e4_c96_se0.25
ir_r5_k3_s1_e6_c112_se0.25
ir_r8_k3_s2_e6_c192_se0.25
""")
EFFICIENTNETV2_S = define("""
cn_r2_k3_s1_e1_c24_skip
er_r4_k3_s2_e4_c48
er_r4_k3_s2_e4_c64
ir_r6_k3_s2_e4_c128_se0.25
ir_r9_k3_s1_e6_c160_se0.25
ir_r15_k3_s2_e6_c256_se0.25
""")
# S as drawn from the paper before its code was published.
EFFICIENTNETV2_RW = (
    ("er_r2_k3_s1_e1_c24",),
    *EFFICIENTNETV2_S[1:5],
    ("ir_r15_k3_s2_e6_c272_se0.25",),
)
EFFICIENTNETV2_M = define("""
cn_r3_k3_s1_e1_c24_skip
er_r5_k3_s2_e4_c48
er_r5_k3_s2_e4_c80
ir_r7_k3_s2_e4_c160_se0.25
ir_r14_k3_s1_e6_c176_se0.25
ir_r18_k3_s2_e6_c304_se0.25
ir_r5_k3_s1_e6_c512_se0.25
""")
EFFICIENTNETV2_L = define("""
cn_r4_k3_s1_e1_c32_skip
er_r7_k3_s2_e4_c64
er_r7_k3_s2_e4_c96
ir_r10_k3_s2_e4_c192_se0.25
ir_r19_k3_s1_e6_c224_se0.25
ir_r25_k3_s2_e6_c384_se0.25
ir_r7_k3_s1_e6_c640_se0.25
""")
EFFICIENTNETV2_XL = define("""
cn_r4_k3_s1_e1_c32_skip
er_r8_k3_s2_e4_c64
er_r8_k3_s2_e4_c96
ir_r16_k3_s2_e4_c192_se0.25
ir_r24_k3_s1_e6_c256_se0.25
ir_r32_k3_s2_e6_c512_se0.25
ir_r8_k3_s1_e6_c640_se0.25
""")

# timm's own, for tests.
TEST_EFFICIENTNET = define("""
cn_r1_k3_s1_e1_c16_skip
er_r1_k3_s2_e4_c24
er_r1_k3_s2_e4_c32
ir_r1_k3_s2_e4_c48_se0.25
ir_r1_k3_s2_e4_c64_se0.25
""")

# MobileNet V1 (arXiv:1704.04861) and V2 (arXiv:1801.04381).
MOBILENET_V1 = define("""
dsa_r1_k3_s1_c64
dsa_r2_k3_s2_c128
dsa_r2_k3_s2_c256
dsa_r6_k3_s2_c512
dsa_r2_k3_s2_c1024
""")
MOBILENET_V2 = define("""
ds_r1_k3_s1_c16
ir_r2_k3_s2_e6_c24
ir_r3_k3_s2_e6_c32
ir_r4_k3_s2_e6_c64
ir_r3_k3_s1_e6_c96
ir_r3_k3_s2_e6_c160
ir_r1_k3_s1_e6_c320
""")

# MobileNet-EdgeTPU, of 2019 and (arXiv:2204.14007) of 2022.
MOBILENET_EDGETPU = define("""
cn_r1_k1_s1_c16
er_r1_k3_s2_e8_c32 er_r3_k3_s1_e4_c32
er_r1_k3_s2_e8_c48 er_r3_k3_s1_e4_c48
ir_r1_k3_s2_e8_c96 ir_r3_k3_s1_e4_c96
ir_r1_k3_s1_e8_c96_noskip ir_r3_k3_s1_e4_c96
ir_r1_k5_s2_e8_c160 ir_r3_k5_s1_e4_c160
ir_r1_k3_s1_e8_c192
""")
_MOBILENET_EDGETPU_V2 = """
cn_r1_k1_s1_c{0}
er_r1_k3_s2_e8_c{1} er_r1_k3_s1_e4_gs{g}_c{1}
er_r1_k3_s2_e8_c{2} er_r1_k3_s1_e4_gs{g}_c{2} er_r1_k3_s1_e4_c{2} er_r1_k3_s1_e4_gs{g}_c{2}
er_r1_k3_s2_e8_c{3} ir_r3_k3_s1_e4_c{3}
ir_r1_k3_s1_e8_c{4} ir_r3_k3_s1_e4_c{4}
ir_r1_k3_s2_e8_c{5} ir_r3_k3_s1_e4_c{5}
ir_r1_k3_s1_e8_c{6}
"""


def _mobilenet_edgetpu_v2(*widths: int, group_size: int) -> Definition:
    """Returns the definition for the widths of the seven stages."""
    return define(_MOBILENET_EDGETPU_V2.format(*widths, g=group_size))


MOBILENET_EDGETPU_V2_XS = _mobilenet_edgetpu_v2(16, 32, 48, 96, 144, 160, 192, group_size=64)
MOBILENET_EDGETPU_V2_S = _mobilenet_edgetpu_v2(24, 48, 64, 128, 160, 192, 256, group_size=64)
MOBILENET_EDGETPU_V2_M = _mobilenet_edgetpu_v2(32, 64, 80, 160, 192, 240, 320, group_size=64)
MOBILENET_EDGETPU_V2_L = _mobilenet_edgetpu_v2(32, 64, 96, 192, 240, 256, 384, group_size=128)

# MnasNet (arXiv:1807.11626): B1, A1, which has squeeze-excite, and a small one.
MNASNET_B1 = define("""
ds_r1_k3_s1_c16_noskip
ir_r3_k3_s2_e3_c24
ir_r3_k5_s2_e3_c40
ir_r3_k5_s2_e6_c80
ir_r2_k3_s1_e6_c96
ir_r4_k5_s2_e6_c192
ir_r1_k3_s1_e6_c320_noskip
""")
MNASNET_A1 = define("""
ds_r1_k3_s1_e1_c16_noskip
ir_r2_k3_s2_e6_c24
ir_r3_k5_s2_e3_c40_se0.25
ir_r4_k3_s2_e6_c80
ir_r2_k3_s1_e6_c112_se0.25
ir_r3_k5_s2_e6_c160_se0.25
ir_r1_k3_s1_e6_c320
""")
MNASNET_SMALL = define("""
ds_r1_k3_s1_c8
ir_r1_k3_s2_e3_c16
ir_r2_k3_s2_e6_c16
ir_r4_k5_s2_e6_c32_se0.25
ir_r3_k3_s1_e6_c32_se0.25
ir_r3_k5_s2_e6_c88_se0.25
ir_r1_k3_s1_e6_c144
""")

# FBNet-C (arXiv:1812.03443).
FBNET_C = define("""
ir_r1_k3_s1_e1_c16
ir_r1_k3_s2_e6_c24 ir_r2_k3_s1_e1_c24
ir_r1_k5_s2_e6_c32 ir_r1_k5_s1_e3_c32 ir_r1_k5_s1_e6_c32 ir_r1_k3_s1_e6_c32
ir_r1_k5_s2_e6_c64 ir_r1_k5_s1_e3_c64 ir_r2_k5_s1_e6_c64
ir_r3_k5_s1_e6_c112 ir_r1_k5_s1_e3_c112
ir_r4_k5_s2_e6_c184
ir_r1_k3_s1_e6_c352
""")

# Single-Path NAS (arXiv:1904.02877).
SPNASNET = define("""
ds_r1_k3_s1_c16_noskip
ir_r3_k3_s2_e3_c24
ir_r1_k5_s2_e6_c40 ir_r3_k3_s1_e3_c40
ir_r1_k5_s2_e6_c80 ir_r3_k3_s1_e3_c80
ir_r1_k5_s1_e6_c96 ir_r3_k5_s1_e3_c96
ir_r4_k5_s2_e6_c192
ir_r1_k3_s1_e6_c320_noskip
""")

# MixNet (arXiv:1907.09595).
MIXNET_S = define("""
ds_r1_k3_s1_e1_c16
ir_r1_k3_a1.1_p1.1_s2_e6_c24 ir_r1_k3_a1.1_p1.1_s1_e3_c24
ir_r1_k3.5.7_s2_e6_c40_se0.5_nsw ir_r3_k3.5_a1.1_p1.1_s1_e6_c40_se0.5_nsw
ir_r1_k3.5.7_p1.1_s2_e6_c80_se0.25_nsw ir_r2_k3.5_p1.1_s1_e6_c80_se0.25_nsw
ir_r1_k3.5.7_a1.1_p1.1_s1_e6_c120_se0.5_nsw ir_r2_k3.5.7.9_a1.1_p1.1_s1_e3_c120_se0.5_nsw
ir_r1_k3.5.7.9.11_s2_e6_c200_se0.5_nsw ir_r2_k3.5.7.9_p1.1_s1_e6_c200_se0.5_nsw
""")
MIXNET_M = define("""
ds_r1_k3_s1_e1_c24
ir_r1_k3.5.7_a1.1_p1.1_s2_e6_c32 ir_r1_k3_a1.1_p1.1_s1_e3_c32
ir_r1_k3.5.7.9_s2_e6_c40_se0.5_nsw ir_r3_k3.5_a1.1_p1.1_s1_e6_c40_se0.5_nsw
ir_r1_k3.5.7_s2_e6_c80_se0.25_nsw ir_r3_k3.5.7.9_a1.1_p1.1_s1_e6_c80_se0.25_nsw
ir_r1_k3_s1_e6_c120_se0.5_nsw ir_r3_k3.5.7.9_a1.1_p1.1_s1_e3_c120_se0.5_nsw
ir_r1_k3.5.7.9_s2_e6_c200_se0.5_nsw ir_r3_k3.5.7.9_p1.1_s1_e6_c200_se0.5_nsw
""")
