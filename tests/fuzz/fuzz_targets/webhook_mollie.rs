#![no_main]

fanout_fuzz::webhook_target!(Mollie);
