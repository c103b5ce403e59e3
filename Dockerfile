# syntax=docker/dockerfile:1
# The image: the program on distroless with glibc; no shell, no package manager, not root.
#   docker build -t hookstream:0.1.0 .
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive a build; the program is copied out of them, for they are not part of the image.
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
# Owned by the user that the program runs as: a named volume mounted here takes its owner over.
COPY --from=build --chown=65532:65532 /out/data /var/lib/hookstream
USER 65532:65532
EXPOSE 8080 8081 8082
ENTRYPOINT ["/usr/bin/hookstream"]
