//! Installation: charts, kustomization, deploy files and the demo.

mod charts;
mod demo;
mod demo_console;
mod deploy_files;
mod dist;
mod kustomize;
