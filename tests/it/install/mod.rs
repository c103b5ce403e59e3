//! Installation: charts, kustomization, deploy files and the demo.

mod charts;
mod demo;
mod deploy_files;
mod dist;
mod kustomize;
