"""Define the fused kernels' minimax polynomials, lowest power first, for C++ and Triton alike.

With these fp32 coefficients the largest relative errors are about 2^-25 for the long polynomials,
and 2^-16 for the short ones, which are used on 16-bit tensors. They were found with Remez's
algorithm: the coefficients were rounded to fp32 one after the other, lowest power first, and after
each rounding the remaining ones were found again. Each comment states the function, its interval,
and the errors of the long and the short polynomial.

The rationals (ABOVE over BELOW) were found with Lawson's algorithm. Their coefficients are all
positive, so rounding each to fp32 adds 2^-24 at most.
"""

POLYNOMIALS: dict[str, tuple[float, ...]] = {
    # arctan(t) / t in t^2, 0 <= t <= 1: 1.9e-8, 4.4e-6
    "ARCTAN": (
        1.0, -0.333332151, 0.199950039, -0.142200142, 0.106984258, -0.0761684924, 0.0439341664,
        -0.0167921372, 0.00302263768,
    ),
    "ARCTAN_SHORT": (
        0.999995649, -0.332994998, 0.195638195, -0.121244282, 0.0574825332, -0.0134823676,
    ),
    # (arctan(t) - t / (1 + t^2)) / (pi t^3) in t^2, 0 <= t <= 1: 1.8e-8, 1.3e-5
    "ARCTAN_SLOPE": (
        0.212206587, -0.254647076, 0.272805005, -0.282452196, 0.285434723, -0.274726987,
        0.236402497, -0.165542334, 0.0842266083, -0.0267856102, 0.00392383849,
    ),
    "ARCTAN_SLOPE_SHORT": (
        0.212203845, -0.254381537, 0.26841566, -0.253857315, 0.190316379, -0.0923882276,
        0.020537449,
    ),
    # e^r, |r| <= ln(2) / 2: 7.2e-9, 2.6e-6
    "EXP": (
        1.0, 1.00000012, 0.500000119, 0.166661397, 0.0416615196, 0.00839332398, 0.00143086445,
    ),
    "EXP_SHORT": (0.999999285, 0.999962866, 0.500040412, 0.167917833, 0.0414972641),
    # Phi(-a) e^(a^2 / 2) / t in t = 1 / (1 + 0.3 a), 0 <= a <= 20: 6.7e-9, 1.6e-5
    "MILLS": (
        0.119685799, 0.119591929, 0.110044114, 0.0793977529, 0.0929041058, -0.0727374479,
        0.182999507, -0.221074775, 0.109169729, -0.0199807119,
    ),
    "MILLS_SHORT": (
        0.119929411, 0.115377657, 0.137406707, -0.00389054161, 0.204288557, -0.0731037855,
    ),
    # ((t - sin t cos t) / pi)^(2/3) / d in d = 1 - t cot t, 0 < d: 6e-9, 6.7e-6
    "OUTPUT_SLOPE_ABOVE": (
        1.0673179626464844, 0.9143608212471008, 0.4069399833679199, 0.11156243085861206,
        0.01893523894250393, 0.0017379755154252052,
    ),
    "OUTPUT_SLOPE_BELOW": (
        1.0, 1.456689715385437, 0.9981490969657898, 0.4145318567752838, 0.11156310886144638,
        0.01893523335456848, 0.0017379755154252052,
    ),
    "OUTPUT_SLOPE_ABOVE_SHORT": (
        1.0673109292984009, 0.5860239863395691, 0.16486845910549164, 0.02605699934065342,
    ),
    "OUTPUT_SLOPE_BELOW_SHORT": (
        1.0, 1.1488349437713623, 0.5878522396087646, 0.1648351550102234, 0.02605699934065342,
    ),
    # sin t / t in the same d: 1.2e-7, 4.0e-6
    "OUTPUT_SINE_ABOVE": (
        1.0000001192092896, 0.6890810132026672, 0.2355910688638687, 0.04485620930790901,
        0.004156467504799366,
    ),
    "OUTPUT_SINE_BELOW": (
        1.0, 1.1890867948532104, 0.6550913453102112, 0.21122273802757263, 0.04070001468062401,
        0.004156467039138079,
    ),
    "OUTPUT_SINE_ABOVE_SHORT": (
        0.9999960064888, 0.5338523387908936, 0.13549549877643585, 0.01590360887348652,
    ),
    "OUTPUT_SINE_BELOW_SHORT": (
        1.0, 1.0337262153625488, 0.4779827296733856, 0.11957011371850967, 0.015903672203421593,
    ),
}  # fmt: skip
