//! An archived file is refused or read, in bounded memory.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut length = 0;
    let mut source = bytes;
    let decoded = archive::format::decode(&mut source, &mut |part| {
        assert!(part.len() <= archive::format::BLOCK_BYTES);
        length += part.len() as u64;
        Ok(())
    });
    if let Ok(record) = decoded {
        assert_eq!(record.length_bytes, length);
    }
});
