//! Flags that say where the operator keeps what is its own: its Lease and its key ring.

/// The operator's namespace and its key ring.
#[derive(clap::Args, Clone, Debug)]
pub struct OperatorNamespaceArgs {
    /// The operator's own namespace, which contains its Lease and its key ring.
    #[arg(long, default_value = "hookstream-system", value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub operator_namespace: String,
    /// A Secret in that namespace with a key ring that another tool manages, which is then only read. Default: the
    /// controller creates hookstream-keys.
    #[arg(long, value_name = "NAME", env = "HOOKSTREAM_KEY_RING_SECRET")]
    pub key_ring_secret: Option<String>,
}
