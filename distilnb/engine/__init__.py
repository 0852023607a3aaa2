"""WHEN and WHERE: the plan, the detached runner and its workers, the journal, the reply cache, the preview.

Nothing is imported here: the runner must start without pydantic, asyncio or pyarrow.
"""
