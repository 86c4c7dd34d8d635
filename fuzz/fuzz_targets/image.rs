//! Any bytes at all as an image file: it is read or refused, and takes no more memory than the limits allow.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use sterna_process::{Image, ImageFile, ImageKey, ReadLimits};

/// So small that an allocation beyond them stands out.
const LIMITS: ReadLimits = ReadLimits {
    image_bytes_max: 1 << 20,
    sections_max: 64,
    page_table_bytes_max: 1 << 20,
    program_bytes_max: 1 << 20,
};

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let alone = Image::decode(bytes, &LIMITS);
    let Ok(file) = ImageFile::from_source(bytes, &LIMITS, &ImageKey::random()) else {
        return if alone.is_ok() { Corpus::Keep } else { Corpus::Reject };
    };
    let _ = file.sections();
    let _ = file.page_statistics();
    let _ = file.program();
    let _ = file.check_pages();
    let image = file.image().encode().expect("what was read can be written");
    let again = Image::decode(&image, &LIMITS).expect("and read again");
    assert_eq!(&again, file.image());
    Corpus::Keep
});
