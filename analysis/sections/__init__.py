"""Hold the sections of a report, one subject in each file."""

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
