"""Hold the sections of a report, one subject in each file.

| file | subject |
|---|---|
| `summary.py` | how many runs there are, what was declared, a sentence for each comparison |
| `conditions.py` | the arguments that groups differ in or share |
| `final_results.py` | the main table |
| `divergence.py` | how many runs diverged |
| `curves.py` | learning curves |
| `differences.py` | every comparison with its tests |
| `further_tests.py` | further test sets, and averaged weights |
| `standard_evaluations.py` | lm_eval's tasks |
| `predictions.py` | opens the part on predictions, which the next three are |
| `calibration.py` | balanced accuracy and calibration |
| `class_accuracy.py` | accuracy by class |
| `paired_predictions.py` | two variants on the same images or texts |
| `sigma_scan.py` | the result against sigma |
| `step_time.py` | the result against the time of a step |
| `layers.py` | what --stats recorded of each layer |
| `tuning.py` | what was tried and chosen |
| `functions.py` | the activations, drawn |
| `run_list.py` | all runs |
"""

from analysis.section import Section
from analysis.sections.calibration import Calibration
from analysis.sections.class_accuracy import ClassAccuracy
from analysis.sections.conditions import Conditions
from analysis.sections.curves import Curves
from analysis.sections.differences import Differences
from analysis.sections.divergence import Divergence
from analysis.sections.final_results import FinalResults
from analysis.sections.functions import Functions
from analysis.sections.further_tests import FurtherTests
from analysis.sections.layers import Layers
from analysis.sections.paired_predictions import PairedPredictions
from analysis.sections.predictions import Predictions
from analysis.sections.run_list import RunList
from analysis.sections.sigma_scan import SigmaScan
from analysis.sections.standard_evaluations import StandardEvaluations
from analysis.sections.step_time import StepTime
from analysis.sections.summary import Summary
from analysis.sections.tuning import Tuning

# In the order in which they are written; `analysis.section.Section` says what each may write.
SECTIONS: tuple[type[Section], ...] = (
    Summary,
    Conditions,
    FinalResults,
    Divergence,
    Curves,
    Differences,
    FurtherTests,
    StandardEvaluations,
    Predictions,
    Calibration,
    ClassAccuracy,
    PairedPredictions,
    SigmaScan,
    StepTime,
    Layers,
    Tuning,
    Functions,
    RunList,
)
