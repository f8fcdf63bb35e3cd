#![no_main]

use fanout_transport::testing::decoders;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| decoders::contract_parameters(data));
