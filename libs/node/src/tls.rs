//! The implementation of cryptography that a process uses.

/// Makes ring the process's cryptography, for every TLS client in it: the library's own default would build another
/// one. To be called before an HTTP client is built; calling it again changes nothing.
pub fn use_ring() {
    // An error means that one is already installed: this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
