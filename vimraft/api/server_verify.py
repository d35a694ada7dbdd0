"""The API's paths about comparing the copies of a volume.

May live here: Litestar handlers (one line each). What they do is the service's business.
"""

from typing import Final

from litestar import post
from litestar.params import FromPath, JSONBody

from vimraft.api.callers import From, Manager, require_token
from vimraft.api.schema import JobReply
from vimraft.api.schema_verify import VerifyRequest, VerifyStep, VerifyStepReply


@post("/v1/volumes/{name:str}/verify", guards=[require_token], status_code=202)
async def verify(
    service: Manager, caller: From, name: FromPath[str], data: JSONBody[VerifyRequest]
) -> JobReply:
    """Compare its copies while it is used; `verified` of the job has what was found."""
    return await service.verify(name, data, who=caller.who)


@post("/v1/volumes/{name:str}/verify/step", guards=[require_token], status_code=200)
async def verify_step(service: Manager, name: FromPath[str], data: JSONBody[VerifyStep]) -> VerifyStepReply:
    """For managers: what its owner does."""
    return await service.verify_step(name, data)


VERIFY_HANDLERS: Final = (verify, verify_step)
