//! Networks of IP addresses, as `10.0.0.0/8` and `2001:db8::/32`.

use core::net::IpAddr;

/// The addresses with the same first bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// Reads an address and a number of bits. The bits behind them say nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(written: &str) -> Result<Self, String> {
        let (address, bits) = written
            .split_once('/')
            .ok_or("has no `/`: write a network like `10.0.0.0/8` or `2001:db8::/32`")?;
        let address = self::address(address).ok_or("does not begin with an IPv4 or IPv6 address")?;
        let most = width(address) - 1;
        let digits = (1..=3).contains(&bits.len()) && bits.bytes().all(|b| b.is_ascii_digit());
        match bits.parse() {
            Ok(bits) if digits && bits <= most => Ok(Self { address, bits }),
            _ => Err(format!(
                "does not end with 0 to {most} bits; for one address, write it as a text"
            )),
        }
    }

    /// Whether a text is an address in it.
    pub(super) fn holds(&self, text: &str) -> bool {
        address(text).is_some_and(|address| {
            address.is_ipv4() == self.address.is_ipv4() && self.first(address) == self.first(self.address)
        })
    }

    /// The first bits of an address of the same width.
    fn first(&self, address: IpAddr) -> Option<u128> {
        let number = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        number.checked_shr(width(address) - self.bits)
    }
}

/// An address; one of IPv4 that is written as IPv6 is of IPv4.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_network() {
        for (network, address, is) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.9.9.9/8", "10.1.2.3", true),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.0/31", "192.0.2.1", true),
            ("192.0.2.0/31", "192.0.2.2", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("::/0", "2001:db8::1", true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.0.0.0/8", "10.0.0.1/32", false),
            ("10.0.0.0/8", "host.example", false),
            ("10.0.0.0/8", "", false),
        ] {
            assert_eq!(
                Network::parse(network).unwrap().holds(address),
                is,
                "{network} and {address}"
            );
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in [
            "10.0.0.0",
            "10.0.0.0/32",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::/128",
            "a/8",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/8/8",
        ] {
            Network::parse(bad).unwrap_err();
        }
    }
}
