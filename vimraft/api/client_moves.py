"""The API about the trash and about jobs that move data, from the caller's side.

May live here: one method a path, as in `client`, of which this is a part.
"""

from vimraft.api import schema, schema_moves
from vimraft.api.client_part import ClientPart, part


class MovesClient(ClientPart):
    def delete_volume(self, name: str, *, purge: bool = False, force: bool = False) -> schema.VolumeReply:
        """Into the trash, where there is one (`trash_id` of the reply)."""
        params: dict[str, str | int] = {}
        if purge:
            params["purge"] = "true"
        if force:
            params["force"] = "true"
        return self._call("DELETE", f"/v1/volumes/{part(name)}", schema.VolumeReply, params=params)

    def trash(self) -> schema_moves.TrashReply:
        return self._call("GET", "/v1/trash", schema_moves.TrashReply)

    def restore(self, trash_id: int, name: str = "") -> schema.VolumeReply:
        body = schema_moves.RestoreRequest(name=name)
        return self._call("POST", f"/v1/trash/{trash_id}/restore", schema.VolumeReply, body=body)

    def purge(self, trash_id: int) -> schema.VolumeReply:
        return self._call("DELETE", f"/v1/trash/{trash_id}", schema.VolumeReply)

    def set_read_only(self, name: str, read_only: bool) -> schema.VolumeReply:
        body = schema_moves.ReadOnlyRequest(read_only=read_only)
        return self._call("POST", f"/v1/volumes/{part(name)}/read-only", schema.VolumeReply, body=body)

    # Jobs: one that runs already is found again, so a lost answer may be asked for again.

    def drain_real(self, storage: str, lun: int) -> schema.JobReply:
        return self._call("POST", f"/v1/reals/{part(storage)}/{lun}/drain", schema.JobReply)

    def drain_site(self, name: str) -> schema.JobReply:
        return self._call("POST", f"/v1/sites/{part(name)}/drain", schema.JobReply)

    def migrate(self, name: str, request: schema_moves.MigrateRequest) -> schema.JobReply:
        return self._call("POST", f"/v1/volumes/{part(name)}/migrate", schema.JobReply, body=request)

    def save(self, name: str, request: schema_moves.SaveRequest) -> schema.JobReply:
        return self._call("POST", f"/v1/volumes/{part(name)}/save", schema.JobReply, body=request)

    def jobs(self) -> schema_moves.JobsReply:
        return self._call("GET", "/v1/jobs", schema_moves.JobsReply)

    def cancel_job(self, job_id: str) -> schema.JobReply:
        return self._call("DELETE", f"/v1/jobs/{part(job_id)}", schema.JobReply)
