"""Networks that judge pictures. None is trained here."""
