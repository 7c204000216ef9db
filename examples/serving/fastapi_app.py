"""A FastAPI application of one's own whose questions and answers are judged.

uvicorn fastapi_app:app
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

from libra_guard import AsyncClient


class Asked(BaseModel):
    question: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncClient(os.environ.get("LIBRA_URL", "http://127.0.0.1:8300")) as app.state.libra:
        yield


app = FastAPI(lifespan=lifespan)


async def safe(asked: Asked, request: Request) -> str:
    """The question of a request, once it has been judged."""
    judged = await request.app.state.libra.check(asked.question)
    if judged.blocked:
        raise HTTPException(403, {"answer": judged.answer, "scenarios": judged.decision.scenarios})
    return asked.question


@app.post("/answer")
async def answer(question: Annotated[str, Depends(safe)], request: Request) -> dict[str, str | None]:
    text = f"你问的是：{question}"  # here your model answers
    judged = await request.app.state.libra.check(question, text)
    return {"answer": judged.answer if judged.blocked else text}
