//! Which keys a layer may have.
