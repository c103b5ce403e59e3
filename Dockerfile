# syntax=docker/dockerfile:1
# The image: the program on distroless with glibc. It has no shell and no package manager, and does not run as root.
#   docker build -t hookstream:0.1.0 --build-arg BUILD_COMMIT=$(git rev-parse HEAD) .
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The commit and its date in seconds, which `hookstream version` prints: the context has no repository.
ARG BUILD_COMMIT=
ARG SOURCE_DATE_EPOCH=
# Cache mounts are not part of the image, so copy the program out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist --bin hookstream && \
    install -D target/dist/hookstream /out/hookstream && \
    install -d -o 65532 -g 65532 /out/data

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="hookstream" \
      org.opencontainers.image.description="Keeps Kong event hooks and Auth0 event streams declared in Kubernetes, and delivers their events durably" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/hookstream /usr/bin/hookstream
# A named volume that is mounted here inherits this owner, so the program can write to it.
COPY --from=build --chown=65532:65532 /out/data /var/lib/hookstream
USER 65532:65532
EXPOSE 8080 8081 8082
ENTRYPOINT ["/usr/bin/hookstream"]
