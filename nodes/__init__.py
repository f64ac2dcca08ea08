"""Narrow steps with typed contracts; each is a factory that returns a runnable for `add_node`."""

from .approve import Clock, Review, approve_node, utc_now
from .approve_calls import approve_calls_node
from .contracts import (
    Angle,
    Angles,
    Approval,
    Email,
    Evidence,
    Fact,
    Findings,
    Letter,
    Problem,
    Quote,
    Receipt,
    Selection,
)
from .dossier import Loaded, load_folder
from .dossier_tools import dossier_tools, web_tools
from .draft import draft_node
from .errors import (
    DeliveryFailed,
    DossierEmpty,
    DossierNotAllowed,
    DossierNotFound,
    InvalidBrief,
    NoEvidence,
    TooManyModelCalls,
    UnknownModel,
    UnsupportedQuote,
)
from .guarded import guarded
from .index import Brief, check_brief, index_node
from .mail import SmtpServer
from .models import load_model
from .offline import OfflineExtractiveModel
from .plan import plan_node
from .research import research_node
from .select import select_node
from .send import send_node
from .stage import Guardrails, stage
from .tools import each_call, tool_node

__all__ = [
    "Angle",
    "Angles",
    "Approval",
    "Brief",
    "Clock",
    "DeliveryFailed",
    "DossierEmpty",
    "DossierNotAllowed",
    "DossierNotFound",
    "Email",
    "Evidence",
    "Fact",
    "Findings",
    "Guardrails",
    "InvalidBrief",
    "Letter",
    "Loaded",
    "NoEvidence",
    "OfflineExtractiveModel",
    "Problem",
    "Quote",
    "Receipt",
    "Review",
    "Selection",
    "SmtpServer",
    "TooManyModelCalls",
    "UnknownModel",
    "UnsupportedQuote",
    "approve_calls_node",
    "approve_node",
    "check_brief",
    "dossier_tools",
    "draft_node",
    "each_call",
    "guarded",
    "index_node",
    "load_folder",
    "load_model",
    "plan_node",
    "research_node",
    "select_node",
    "send_node",
    "stage",
    "tool_node",
    "utc_now",
    "web_tools",
]
