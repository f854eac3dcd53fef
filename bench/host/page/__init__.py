"""The HTML report: a record to charts, tables and words; those to one file that needs no other."""
