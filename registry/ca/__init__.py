"""The certificate authority and enrolment."""
