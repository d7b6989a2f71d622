"""presidio's analyzer with regular-expression recognisers alone: no language model, no network."""

import tldextract
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NoOpNlpEngine
from presidio_analyzer.predefined_recognizers import (
    CreditCardRecognizer,
    CryptoRecognizer,
    EmailRecognizer,
    IbanRecognizer,
    IpRecognizer,
    PhoneRecognizer,
    UsSsnRecognizer,
)

REGIONS = ("US", "GB", "CA", "IN")
"""Whose national formats count as phone numbers; with a plus sign those of every country do."""
_DOMAINS = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
"""The list of top-level domains that ships with the package; by default it would be fetched."""


class OfflineEmailRecognizer(EmailRecognizer):
    """presidio's, with a list of domains that is never fetched."""

    def validate_result(self, pattern_text: str) -> bool:
        return _DOMAINS(pattern_text).fqdn != ""


def create_engine() -> AnalyzerEngine:
    """An engine that knows the entities of `personal_data.NECESSARY`."""
    recognizers = [
        CreditCardRecognizer(),
        CryptoRecognizer(),
        OfflineEmailRecognizer(),
        IbanRecognizer(),
        IpRecognizer(),
        PhoneRecognizer(supported_regions=REGIONS),
        UsSsnRecognizer(),
    ]
    return AnalyzerEngine(
        registry=RecognizerRegistry(recognizers=recognizers, supported_languages=["en"]),
        nlp_engine=NoOpNlpEngine(models=[{"lang_code": "en", "model_name": "none"}]),
        supported_languages=["en"],
    )
