"""The definitions of MobileNetV3 and its relatives: each stage's blocks, as strings.

They are those of timm's `mobilenetv3.py`; `decode_block` of `efficientnet_builder.py` explains
their syntax. A line is a stage; a backslash continues it. Depths and widths are those before
scaling.
"""

from tl_jax.models.families.efficientnet_builder import define

# MobileNetV3 (arXiv:1905.02244). The minimal ones have no 5x5 kernel, squeeze-excite or hard swish.
MOBILENETV3_SMALL = define("""
ds_r1_k3_s2_e1_c16_se0.25_nre
ir_r1_k3_s2_e4.5_c24_nre ir_r1_k3_s1_e3.67_c24_nre
ir_r1_k5_s2_e4_c40_se0.25 ir_r2_k5_s1_e6_c40_se0.25
ir_r2_k5_s1_e3_c48_se0.25
ir_r3_k5_s2_e6_c96_se0.25
cn_r1_k1_s1_c576
""")
MOBILENETV3_SMALL_MINIMAL = define("""
ds_r1_k3_s2_e1_c16
ir_r1_k3_s2_e4.5_c24 ir_r1_k3_s1_e3.67_c24
ir_r1_k3_s2_e4_c40 ir_r2_k3_s1_e6_c40
ir_r2_k3_s1_e3_c48
ir_r3_k3_s2_e6_c96
cn_r1_k1_s1_c576
""")
MOBILENETV3_LARGE = define("""
ds_r1_k3_s1_e1_c16_nre
ir_r1_k3_s2_e4_c24_nre ir_r1_k3_s1_e3_c24_nre
ir_r3_k5_s2_e3_c40_se0.25_nre
ir_r1_k3_s2_e6_c80 ir_r1_k3_s1_e2.5_c80 ir_r2_k3_s1_e2.3_c80
ir_r2_k3_s1_e6_c112_se0.25
ir_r3_k5_s2_e6_c160_se0.25
cn_r1_k1_s1_c960
""")
MOBILENETV3_LARGE_MINIMAL = define("""
ds_r1_k3_s1_e1_c16
ir_r1_k3_s2_e4_c24 ir_r1_k3_s1_e3_c24
ir_r3_k3_s2_e3_c40
ir_r1_k3_s2_e6_c80 ir_r1_k3_s1_e2.5_c80 ir_r2_k3_s1_e2.3_c80
ir_r2_k3_s1_e6_c112
ir_r3_k3_s2_e6_c160
cn_r1_k1_s1_c960
""")

# As timm trained it before it had the weights of TensorFlow.
MOBILENETV3_RW = (("ds_r1_k3_s1_e1_c16_nre_noskip",), *MOBILENETV3_LARGE[1:])

# FBNetV3 (arXiv:2006.02049).
FBNETV3_B = define("""
ds_r2_k3_s1_e1_c16
ir_r1_k5_s2_e4_c24 ir_r3_k5_s1_e2_c24
ir_r1_k5_s2_e5_c40_se0.25 ir_r4_k5_s1_e3_c40_se0.25
ir_r1_k5_s2_e5_c72 ir_r4_k3_s1_e3_c72
ir_r1_k3_s1_e5_c120_se0.25 ir_r5_k5_s1_e3_c120_se0.25
ir_r1_k3_s2_e6_c184_se0.25 ir_r5_k5_s1_e4_c184_se0.25 ir_r1_k5_s1_e6_c224_se0.25
cn_r1_k1_s1_c1344
""")
FBNETV3_D = define("""
ds_r2_k3_s1_e1_c16
ir_r1_k3_s2_e5_c24 ir_r5_k3_s1_e2_c24
ir_r1_k5_s2_e4_c40_se0.25 ir_r4_k3_s1_e3_c40_se0.25
ir_r1_k3_s2_e5_c72 ir_r4_k3_s1_e3_c72
ir_r1_k3_s1_e5_c128_se0.25 ir_r6_k5_s1_e3_c128_se0.25
ir_r1_k3_s2_e6_c208_se0.25 ir_r5_k5_s1_e5_c208_se0.25 ir_r1_k5_s1_e6_c240_se0.25
cn_r1_k1_s1_c1440
""")
FBNETV3_G = define("""
ds_r3_k3_s1_e1_c24
ir_r1_k5_s2_e4_c40 ir_r4_k5_s1_e2_c40
ir_r1_k5_s2_e4_c56_se0.25 ir_r4_k5_s1_e3_c56_se0.25
ir_r1_k5_s2_e5_c104 ir_r4_k3_s1_e3_c104
ir_r1_k3_s1_e5_c160_se0.25 ir_r8_k5_s1_e3_c160_se0.25
ir_r1_k3_s2_e6_c264_se0.25 ir_r6_k5_s1_e5_c264_se0.25 ir_r2_k5_s1_e6_c288_se0.25
cn_r1_k1_s1_c1728
""")

# PP-LCNet (arXiv:2109.15099).
LCNET = define("""
dsa_r1_k3_s1_c32
dsa_r2_k3_s2_c64
dsa_r2_k3_s2_c128
dsa_r1_k3_s2_c256 dsa_r1_k5_s1_c256
dsa_r4_k5_s1_c256
dsa_r2_k5_s2_c512_se0.25
""")

# MobileNetV4 (arXiv:2404.10518).
MOBILENETV4_SMALL = define("""
cn_r1_k3_s2_c32 cn_r1_k1_s1_c32
cn_r1_k3_s2_c96 cn_r1_k1_s1_c64
uir_r1_a5_k5_s2_e3_c96 uir_r4_a0_k3_s1_e2_c96 uir_r1_a3_k0_s1_e4_c96
uir_r1_a3_k3_s2_e6_c128 uir_r1_a5_k5_s1_e4_c128 uir_r1_a0_k5_s1_e4_c128 uir_r1_a0_k5_s1_e3_c128 \
    uir_r2_a0_k3_s1_e4_c128
cn_r1_k1_s1_c960
""")
MOBILENETV4_MEDIUM = define("""
er_r1_k3_s2_e4_c48
uir_r1_a3_k5_s2_e4_c80 uir_r1_a3_k3_s1_e2_c80
uir_r1_a3_k5_s2_e6_c160 uir_r2_a3_k3_s1_e4_c160 uir_r1_a3_k5_s1_e4_c160 uir_r1_a3_k3_s1_e4_c160 \
    uir_r1_a3_k0_s1_e4_c160 uir_r1_a0_k0_s1_e2_c160 uir_r1_a3_k0_s1_e4_c160
uir_r1_a5_k5_s2_e6_c256 uir_r1_a5_k5_s1_e4_c256 uir_r2_a3_k5_s1_e4_c256 uir_r1_a0_k0_s1_e4_c256 \
    uir_r1_a3_k0_s1_e4_c256 uir_r1_a3_k5_s1_e2_c256 uir_r1_a5_k5_s1_e4_c256 \
    uir_r2_a0_k0_s1_e4_c256 uir_r1_a5_k0_s1_e2_c256
cn_r1_k1_s1_c960
""")
MOBILENETV4_LARGE = define("""
er_r1_k3_s2_e4_c48
uir_r1_a3_k5_s2_e4_c96 uir_r1_a3_k3_s1_e4_c96
uir_r1_a3_k5_s2_e4_c192 uir_r3_a3_k3_s1_e4_c192 uir_r1_a3_k5_s1_e4_c192 uir_r5_a5_k3_s1_e4_c192 \
    uir_r1_a3_k0_s1_e4_c192
uir_r4_a5_k5_s2_e4_c512 uir_r1_a5_k0_s1_e4_c512 uir_r1_a5_k3_s1_e4_c512 uir_r2_a5_k0_s1_e4_c512 \
    uir_r1_a5_k3_s1_e4_c512 uir_r1_a5_k5_s1_e4_c512 uir_r3_a5_k0_s1_e4_c512
cn_r1_k1_s1_c960
""")
MOBILENETV4_HYBRID_MEDIUM = define("""
er_r1_k3_s2_e4_c48
uir_r1_a3_k5_s2_e4_c80 uir_r1_a3_k3_s1_e2_c80
uir_r1_a3_k5_s2_e6_c160 uir_r1_a0_k0_s1_e2_c160 uir_r1_a3_k3_s1_e4_c160 uir_r1_a3_k5_s1_e4_c160 \
    mqa_r1_k3_h4_s1_v2_d64_c160 uir_r1_a3_k3_s1_e4_c160 mqa_r1_k3_h4_s1_v2_d64_c160 \
    uir_r1_a3_k0_s1_e4_c160 mqa_r1_k3_h4_s1_v2_d64_c160 uir_r1_a3_k3_s1_e4_c160 \
    mqa_r1_k3_h4_s1_v2_d64_c160 uir_r1_a3_k0_s1_e4_c160
uir_r1_a5_k5_s2_e6_c256 uir_r1_a5_k5_s1_e4_c256 uir_r2_a3_k5_s1_e4_c256 uir_r1_a0_k0_s1_e2_c256 \
    uir_r1_a3_k5_s1_e2_c256 uir_r1_a0_k0_s1_e2_c256 uir_r1_a0_k0_s1_e4_c256 \
    mqa_r1_k3_h4_s1_d64_c256 uir_r1_a3_k0_s1_e4_c256 mqa_r1_k3_h4_s1_d64_c256 \
    uir_r1_a5_k5_s1_e4_c256 mqa_r1_k3_h4_s1_d64_c256 uir_r1_a5_k0_s1_e4_c256 \
    mqa_r1_k3_h4_s1_d64_c256 uir_r1_a5_k0_s1_e4_c256
cn_r1_k1_s1_c960
""")
MOBILENETV4_HYBRID_LARGE = define("""
er_r1_k3_s2_e4_c48
uir_r1_a3_k5_s2_e4_c96 uir_r1_a3_k3_s1_e4_c96
uir_r1_a3_k5_s2_e4_c192 uir_r3_a3_k3_s1_e4_c192 uir_r1_a3_k5_s1_e4_c192 uir_r2_a5_k3_s1_e4_c192 \
    mqa_r1_k3_h8_s1_v2_d48_c192 uir_r1_a5_k3_s1_e4_c192 mqa_r1_k3_h8_s1_v2_d48_c192 \
    uir_r1_a5_k3_s1_e4_c192 mqa_r1_k3_h8_s1_v2_d48_c192 uir_r1_a5_k3_s1_e4_c192 \
    mqa_r1_k3_h8_s1_v2_d48_c192 uir_r1_a3_k0_s1_e4_c192
uir_r4_a5_k5_s2_e4_c512 uir_r1_a5_k0_s1_e4_c512 uir_r1_a5_k3_s1_e4_c512 uir_r2_a5_k0_s1_e4_c512 \
    uir_r1_a5_k3_s1_e4_c512 uir_r1_a5_k5_s1_e4_c512 mqa_r1_k3_h8_s1_d64_c512 \
    uir_r1_a5_k0_s1_e4_c512 mqa_r1_k3_h8_s1_d64_c512 uir_r1_a5_k0_s1_e4_c512 \
    mqa_r1_k3_h8_s1_d64_c512 uir_r1_a5_k0_s1_e4_c512 mqa_r1_k3_h8_s1_d64_c512 \
    uir_r1_a5_k0_s1_e4_c512
cn_r1_k1_s1_c960
""")
