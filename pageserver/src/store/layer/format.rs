//! Header, index and footer of a layer file.
