# The course in a container: see slides/seats.md.
FROM python:3.11-slim

RUN useradd --create-home student
WORKDIR /srv/metakit
COPY --chown=student . .
RUN chown student .
USER student

RUN python run.py setup && rm -rf ~/.cache

# Inside the container the server must answer on every address; what is reachable is chosen by `docker run -p`.
EXPOSE 8888
ENV JUPYTER_CONFIG_PATH=/srv/metakit/.jupyter
CMD [".venv/bin/python", "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=0.0.0.0", "--ServerApp.port=8888", \
     "--ServerApp.port_retries=0", "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"]
