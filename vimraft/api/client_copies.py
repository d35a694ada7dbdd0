"""The API about copies and owners of volumes, from the caller's side.

May live here: one method a path, as in `client`, of which this is a part.
"""

from vimraft.api import schema, schema_copies, schema_verify
from vimraft.api.client_part import ClientPart, part
from vimraft.core.tables import ReadPolicy


class CopiesClient(ClientPart):
    def add_copy(self, name: str, request: schema_copies.AddCopyRequest) -> schema.VolumeReply:
        return self._call("POST", f"/v1/volumes/{part(name)}/copies", schema.VolumeReply, body=request)

    def remove_copy(self, name: str, copy: str) -> schema.VolumeReply:
        return self._call("DELETE", f"/v1/volumes/{part(name)}/copies/{part(copy)}", schema.VolumeReply)

    def pause_copy(self, name: str, copy: str, paused: bool) -> schema.VolumeReply:
        path = f"/v1/volumes/{part(name)}/copies/{part(copy)}/pause"
        body = schema_copies.PauseCopyRequest(paused=paused)
        return self._call("POST", path, schema.VolumeReply, body=body)

    def set_read_policy(self, name: str, policy: ReadPolicy) -> schema.VolumeReply:
        body = schema_copies.ReadPolicyRequest(policy=policy)
        return self._call("POST", f"/v1/volumes/{part(name)}/read-policy", schema.VolumeReply, body=body)

    def verify_copies(self, name: str, request: schema_verify.VerifyRequest) -> schema.JobReply:
        """The same request again finds the job that runs."""
        return self._call("POST", f"/v1/volumes/{part(name)}/verify", schema.JobReply, body=request)

    def move_owner(self, name: str, manager: str) -> schema.VolumeReply:
        """A repetition finds the volume moved, or moves it."""
        body = schema_copies.MoveOwnerRequest(manager=manager)
        return self._call("POST", f"/v1/volumes/{part(name)}/owner", schema.VolumeReply, body=body)

    def force_lost(self, name: str, *, accept_loss: bool) -> schema.DoneReply:
        body = schema_copies.ForceLostRequest(name=name, accept_loss=accept_loss)
        return self._call("POST", "/v1/force-lost", schema.DoneReply, body=body)
