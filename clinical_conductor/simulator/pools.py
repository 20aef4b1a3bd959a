"""Made-up words that records are drawn from. None of them is anybody's."""

from __future__ import annotations

_WORDS = """
    baseline screening consent dosing follow review sample blood pressure monitor visit protocol amended window
    confirmed pending site staff coordinator reminder sent call returned letter scan chart source document verified
    approved updated scheduled repeat fasting morning evening weekly monthly stable mild moderate resolved ongoing
    reported adverse event none noted per sponsor request budget invoice paid travel stipend arm cohort open label
    blinded placebo active control extension washout enrolled completed withdrawn lost early end study drug kit
    temperature shipment received stored pharmacy central laboratory local imaging questionnaire diary device
"""
_FIRST = """
    Ada Amir Anaïs Ben Björn Carla Chen Chloé Dana Dmitri Elena Emeka Eva Farid Fatima Felix Gita Grace Hana Hugo
    Ida Igor Ines Ivan Jana Jonas José Kai Karin Kofi Lars Leila Lena Liam Luca Mara Marek Mei Milan Mina Nadia Nils
    Noor Olga Omar Oskar Paula Pavel Petra Priya Quinn Rana Rosa Samir Sara Sofía Tomás Uma Vera Viktor Wanda Yara
    Zoë Zubin
"""
_LAST = """
    Abara Adler Almeida Andersen Arslan Baker Bauer Becker Berg Bianchi Brandt Castro Cohen Costa Cruz Dahl Diaz
    Dietrich Dubois Eriksen Farkas Fischer Fontaine Garcia Gruber Haddad Hansen Horvath Ibrahim Ito Jensen Johansson
    Kaya Keller Khan Kim Klein Koch Kovacs Kumar Lang Larsen Lefevre Lopez Maier Martin Mbeki Meyer Moreau Nakamura
    Navarro Nguyen Novak Okafor Olsen Osei Park Pereira Petrov Quist Ramos Reyes Rossi Sato Schmid Silva Singh
    Sokolov Suzuki Tanaka Torres Urban Vargas Vogel Weber Winter Yilmaz Zhang Zimmer
"""

WORDS: tuple[str, ...] = tuple(_WORDS.split())
"""Words of comments."""

POOLS: dict[str, tuple[str, ...]] = {
    "first": tuple(_FIRST.split()),
    "last": tuple(_LAST.split()),
    "city": (
        "Springfield",
        "Riverton",
        "Lakeside",
        "Fairview",
        "Greenville",
        "Bristol",
        "Clayton",
        "Ashland",
        "Dover",
    ),
    "state": ("AZ", "CA", "CO", "FL", "GA", "IL", "MA", "NC", "NY", "OH", "TX", "UT", "VA", "WA"),
    "street": (
        "12 Elm Street",
        "480 Main Street",
        "9 Harbor Road",
        "77 Hill Lane",
        "3101 Oak Avenue",
        "5 Mill Court",
    ),
    "race": (
        "White",
        "Black or African American",
        "Asian",
        "Other",
        "American Indian or Alaska Native",
        "Unknown",
    ),
    "ethnicity": ("Hispanic or Latino", "Not Hispanic or Latino", "Unknown"),
    "language": ("English", "Spanish", "French", "German", "Mandarin", "Español"),
    "insurer": ("Acme Health", "Blue Example", "Example Mutual", "Plan Zero"),
    "profession": ("Physician", "Nurse", "Coordinator", "Pharmacist", "Data Manager", "Recruiter"),
    "phase": ("Phase I", "Phase II", "Phase III", "Phase IV", "Observational"),
    "therapeutic": (
        "Cardiology",
        "Dermatology",
        "Endocrinology",
        "Gastroenterology",
        "Immunology",
        "Infectious Disease",
        "Neurology",
        "Oncology",
        "Psychiatry",
        "Pulmonology",
        "Rheumatology",
        "Vaccines",
    ),
    "substance": (
        "Alvorine",
        "Bexatol",
        "Cindrafen",
        "Doxaline",
        "Ebruvan",
        "Fenoprax",
        "Gliruvast",
        "Hexadine",
        "Ivaprol",
        "Jantoxin",
        "Kelorin",
        "Lumivex",
    ),
    "arm": ("Active", "Placebo", "Control", "Open label", "Low dose", "High dose"),
    "reason": ("Schedule conflict", "Moved away", "Did not answer", "Withdrew consent", "Other"),
    "icd10": ("E11.9", "I10", "J45.909", "K21.9", "L40.0", "M05.79", "F33.1", "G43.909"),
    "icd9": ("250.00", "401.9", "493.90", "530.81", "696.1", "714.0", "296.32", "346.90"),
    "cpt": ("99213", "36415", "93000", "80053", "85025", "71046"),
}
"""Values of fields by the name that shapes.py gives the pool."""
