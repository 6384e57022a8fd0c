# The image of all four roles: docker build -t coppice . ; see docs/deploy.md for how jobs use it.
FROM python:3.11-slim
WORKDIR /coppice
COPY pyproject.toml README.md LICENSE ./
COPY coppice coppice
RUN pip install --no-cache-dir '.[onnx]'
COPY main1.py loop_outer.py loop_ncs.py evaluator.py ./
COPY jobs jobs
ENTRYPOINT ["coppice"]
CMD ["evaluator"]
