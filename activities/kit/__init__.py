"""Tools without a domain: database, HTTP, errors, payload types, paging, signing, spreadsheets, expressions."""
