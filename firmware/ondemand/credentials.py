"""Who the board is to its servers."""

import binascii
from hashlib import sha256

import mtls
from trust.identity import Identity


def load(device):
    """(TLS context, MQTT client id) from the identity partition.

    A broker's access list goes by the certificate, but not who may use which client id: with one
    that it can guess, another device could take this one's session over, and its orders with it.
    """
    identity = Identity(device)
    key = identity.key
    secret = binascii.hexlify(sha256(b"signet client id" + key).digest()[:8]).decode()
    client_id = "%s-%s" % (identity.record()["id"], secret)
    return mtls.client_context(identity.certificate, key, identity.ca), client_id
