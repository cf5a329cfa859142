"""The stock ledger and everything that moves or plans stock."""
