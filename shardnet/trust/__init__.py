"""Who belongs to a cluster: its authority, certificates, invitations, and how a device comes by a certificate."""
