"""TrialSync: Clinical Conductor as a dlt source, and its way into PostgreSQL."""
