//! [`Status`]: status codes of HTTP (RFC 9110, section 15), as far as a file server has use for them.

/// A status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16);

impl Status {
    pub(crate) const OK: Self = Self(200);
    pub(crate) const PARTIAL_CONTENT: Self = Self(206);
    pub(crate) const MOVED_PERMANENTLY: Self = Self(301);
    pub(crate) const NOT_MODIFIED: Self = Self(304);
    pub(crate) const BAD_REQUEST: Self = Self(400);
    pub(crate) const FORBIDDEN: Self = Self(403);
    pub(crate) const NOT_FOUND: Self = Self(404);
    pub(crate) const METHOD_NOT_ALLOWED: Self = Self(405);
    pub(crate) const REQUEST_TIMEOUT: Self = Self(408);
    pub(crate) const PRECONDITION_FAILED: Self = Self(412);
    pub(crate) const CONTENT_TOO_LARGE: Self = Self(413);
    pub(crate) const URI_TOO_LONG: Self = Self(414);
    pub(crate) const RANGE_NOT_SATISFIABLE: Self = Self(416);
    pub(crate) const EXPECTATION_FAILED: Self = Self(417);
    pub(crate) const HEAD_TOO_LARGE: Self = Self(431);
    pub(crate) const INTERNAL_SERVER_ERROR: Self = Self(500);
    pub(crate) const NOT_IMPLEMENTED: Self = Self(501);
    pub(crate) const SERVICE_UNAVAILABLE: Self = Self(503);
    pub(crate) const VERSION_NOT_SUPPORTED: Self = Self(505);

    /// The words beside the number.
    pub(crate) fn reason(self) -> &'static str {
        match self.0 {
            200 => "OK",
            206 => "Partial Content",
            301 => "Moved Permanently",
            304 => "Not Modified",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            412 => "Precondition Failed",
            413 => "Content Too Large",
            414 => "URI Too Long",
            416 => "Range Not Satisfiable",
            417 => "Expectation Failed",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            501 => "Not Implemented",
            503 => "Service Unavailable",
            505 => "HTTP Version Not Supported",
            _ => "",
        }
    }
}
