"""Local doubles of the services a relay talks to: SMTP provider, Secrets Manager, instance metadata."""
