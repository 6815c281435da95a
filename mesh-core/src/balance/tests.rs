//! What is picked, policy by policy: shares, places that others have published, and what happens when hosts go.

use std::time::{Duration, Instant};

use super::*;
use crate::config::{
    BalanceFactor, ClientWeights, LeastRequest as LeastRequestSettings, Maglev, ReportedMetric, RingFunction, RingHash,
};
use crate::entropy::Entropy;
use crate::report::orca::Metric;

struct Host {
    in_flight: u32,
    available: bool,
    weight: u32,
    key: String,
    connected: bool,
    reported: Reported,
}

impl Load for Host {
    fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn is_available(&self) -> bool {
        self.available
    }

    fn weight(&self) -> u32 {
        self.weight
    }

    fn hash_key(&self, key: &mut String) {
        key.push_str(&self.key);
    }

    fn is_connected(&self) -> bool {
        self.connected
    }

    fn reported(&self) -> Option<&Reported> {
        Some(&self.reported)
    }
}

#[allow(clippy::disallowed_methods, reason = "any point in time will do")]
fn epoch() -> Instant {
    Instant::now()
}

/// Idle hosts of these weights on ports from `first` of loopback.
fn on_ports(first: u16, weights: &[u32]) -> Vec<Host> {
    let now = epoch();
    let hosts = weights.iter().zip(first..).map(|(weight, port)| Host {
        in_flight: 0,
        available: true,
        weight: *weight,
        key: format!("127.0.0.1:{port}"),
        connected: false,
        reported: Reported::new(now),
    });
    hosts.collect()
}

fn busy(in_flight: &[u32]) -> Vec<Host> {
    let mut hosts = on_ports(80, &vec![1; in_flight.len()]);
    for (host, calls) in hosts.iter_mut().zip(in_flight) {
        host.in_flight = *calls;
    }
    hosts
}

fn shares(policy: &LbPolicy, hosts: &[Host], picks: usize) -> Vec<usize> {
    let entropy = Entropy::seeded(11);
    let picker = Picker::new(policy, hosts, &mut entropy.draw());
    let mut shares = vec![0; hosts.len()];
    for _ in 0..picks {
        shares[picker
            .pick(hosts, Ask::default(), |_| false, &mut entropy.draw())
            .unwrap()] += 1;
    }
    shares
}

fn hashed(hash: u64) -> Ask {
    Ask {
        hash: Some(hash),
        ..Ask::default()
    }
}

fn all_policies() -> Vec<LbPolicy> {
    vec![
        LbPolicy::LEAST_REQUEST,
        LbPolicy::RoundRobin,
        LbPolicy::Random,
        LbPolicy::RingHash(RingHash::DEFAULT),
        LbPolicy::Maglev(Maglev::DEFAULT),
        LbPolicy::ClientSideWeightedRoundRobin(ClientWeights::default()),
        LbPolicy::PickFirst { shuffle: false },
        LbPolicy::PickFirst { shuffle: true },
    ]
}

/// Whether `count` of `picks` is the share `fair` of them, within five standard deviations.
fn near(count: usize, picks: usize, fair: f64) -> bool {
    let deviation = (picks as f64 * fair * (1.0 - fair)).sqrt();
    (count as f64 - picks as f64 * fair).abs() < 5.0 * deviation + 1.0
}

#[test]
fn two_choices_avoid_the_busy_one() {
    let shares = shares(&LbPolicy::LEAST_REQUEST, &busy(&[0, 9, 0]), 9_000);
    // Drawn with replacement, the busy one is chosen only when drawn twice: 1 in 9.
    assert!(near(shares[1], 9_000, 1.0 / 9.0), "{shares:?}");
}

#[test]
fn weights_are_shares_of_an_idle_cluster() {
    let hosts = on_ports(80, &[50, 30, 15, 5]);
    for policy in [LbPolicy::LEAST_REQUEST, LbPolicy::RoundRobin, LbPolicy::Random] {
        let shares = shares(&policy, &hosts, 10_000);
        for (count, host) in shares.iter().zip(&hosts) {
            assert!(
                near(*count, 10_000, f64::from(host.weight) / 100.0),
                "{policy:?}: {shares:?}"
            );
        }
        if policy == LbPolicy::RoundRobin {
            assert_eq!(shares, [5_000, 3_000, 1_500, 500]);
        }
    }
}

#[test]
fn calls_in_flight_count_for_the_weight_and_by_the_bias() {
    let mut hosts = on_ports(80, &[3, 1]);
    (hosts[0].in_flight, hosts[1].in_flight) = (4, 2);
    let with = |bias_per_mille| {
        let settings = LeastRequestSettings {
            choices: 2,
            bias_per_mille,
        };
        shares(&LbPolicy::LeastRequest(settings), &hosts, 8_000)
    };
    // 4 / 3 is less than 2 / 1: the light one only when it is drawn twice, one in sixteen.
    assert!(near(with(1_000)[1], 8_000, 1.0 / 16.0), "{:?}", with(1_000));
    // Squared, 16 / 3 is more than 4 / 1: the heavy one only when it is drawn twice.
    assert!(near(with(2_000)[0], 8_000, 9.0 / 16.0), "{:?}", with(2_000));
    // Not at all: by weight alone (Envoy).
    assert!(near(with(0)[0], 8_000, 0.75), "{:?}", with(0));
}

#[test]
fn round_robin_is_even() {
    let shares = shares(&LbPolicy::RoundRobin, &busy(&[0, 5, 9]), 3_000);
    assert_eq!(shares, [1_000; 3]);
}

#[test]
fn unavailable_and_tried_hosts_are_avoided_until_there_is_no_other() {
    for policy in all_policies() {
        let entropy = Entropy::seeded(5);
        let mut three = on_ports(80, &[1, 1, 7]);
        three[1].available = false;
        let picker = Picker::new(&policy, &three, &mut entropy.draw());
        let pick = |hosts: &[Host]| picker.pick(hosts, Ask::default(), |host| host.weight == 7, &mut entropy.draw());
        for _ in 0..1_000 {
            assert_eq!(pick(&three), Some(0), "{policy:?}");
        }
        // One that was tried is better than one that cannot be called.
        three[0].available = false;
        assert_eq!(pick(&three), Some(2), "{policy:?}");
        three[2].available = false;
        assert!(pick(&three).is_some());
        assert_eq!(pick(&[]), None);
    }
}

#[test]
fn a_hash_keeps_to_its_host_unless_tries_are_told_to_leave_it() {
    for policy in [LbPolicy::RingHash(RingHash::DEFAULT), LbPolicy::Maglev(Maglev::DEFAULT)] {
        let entropy = Entropy::seeded(5);
        let hosts = on_ports(80, &[1; 10]);
        let picker = Picker::new(&policy, &hosts, &mut entropy.draw());
        for hash in 0..500u64 {
            let hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let pick = |selection, tried: &[usize]| {
                let ask = Ask {
                    hash: Some(hash),
                    selection,
                    in_flight: 0,
                };
                let tried = |host: &Host| tried.iter().any(|index| hosts[*index].key == host.key);
                picker.pick(&hosts, ask, tried, &mut entropy.draw()).unwrap()
            };
            let first = pick(HostSelection::ISTIO, &[]);
            assert_eq!(pick(HostSelection::ANY, &[first]), first, "{policy:?}");
            let second = pick(HostSelection::ISTIO, &[first]);
            let third = pick(HostSelection::ISTIO, &[first, second]);
            assert!(first != second && third != second && third != first, "{policy:?}");
            // Every time to the same: what the second host learned is of use to the next retry.
            assert_eq!(pick(HostSelection::ISTIO, &[first]), second);
        }
    }
}

/// The ring that Envoy's own tests write down for six hosts and twelve places.
#[test]
fn a_ring_is_that_of_envoy() {
    let settings = |function| RingHash {
        min_size: 12,
        function,
        ..RingHash::DEFAULT
    };
    let ring = Ring::new(settings(RingFunction::XxHash), &on_ports(90, &[1; 6]));
    let expected = [
        (833_437_586_790_550_860, 4),
        (928_266_305_478_181_108, 2),
        (1_033_482_794_131_418_490, 0),
        (3_551_244_743_356_806_947, 5),
        (3_851_675_632_748_031_481, 3),
        (5_583_722_120_771_150_861, 1),
        (6_311_230_543_546_372_928, 1),
        (7_700_377_290_971_790_572, 3),
        (13_144_177_310_400_110_813, 5),
        (13_444_792_449_719_432_967, 2),
        (15_516_499_411_664_133_160, 4),
        (16_117_243_373_044_804_889, 0),
    ];
    assert_eq!(ring.places().collect::<Vec<_>>(), expected);
    let cases = [
        (0, 4),
        (u64::MAX, 4),
        (3_551_244_743_356_806_947, 5),
        (3_551_244_743_356_806_948, 3),
        (16_117_243_373_044_804_880, 0),
    ];
    for (hash, host) in cases {
        assert_eq!(ring.host(hash, 0), host, "{hash}");
    }
    let ring = Ring::new(settings(RingFunction::Murmur2), &on_ports(80, &[1; 6]));
    let expected = [
        (1_358_027_074_129_602_068, 5),
        (4_361_834_613_929_391_114, 3),
        (7_224_494_972_555_149_682, 4),
        (7_701_421_856_454_313_576, 1),
        (8_649_315_368_077_433_379, 2),
        (8_739_448_859_063_030_639, 4),
        (9_887_544_217_113_020_895, 1),
        (10_150_910_876_324_007_731, 2),
        (15_168_472_011_420_622_455, 3),
        (15_427_156_902_705_414_897, 0),
        (16_375_050_414_328_759_093, 5),
        (17_613_279_263_364_193_813, 0),
    ];
    assert_eq!(ring.places().collect::<Vec<_>>(), expected);
}

#[test]
fn a_ring_is_as_large_as_it_was_to_be() {
    let size = |min_size, max_size, weights: &[u32]| {
        let settings = RingHash {
            min_size,
            max_size,
            function: RingFunction::XxHash,
            balance: None,
        };
        let hosts = on_ports(80, weights);
        let ring = Ring::new(settings, &hosts);
        let of = |host| ring.places().filter(|(_, index)| *index == host).count();
        (0..weights.len()).map(of).collect::<Vec<_>>()
    };
    // The lightest has whole places, and the others by their weight; or all fewer, where there may be no more.
    assert_eq!(size(1_024, 8_388_608, &[1]), [1_024]);
    assert_eq!(size(1_024, 8_388_608, &[1, 1, 1]), [342, 342, 342]);
    assert_eq!(size(3, 8_388_608, &[1, 2]), [1, 2]);
    assert_eq!(size(6, 6, &[1, 1, 1, 1]), [2, 1, 2, 1]);
    assert_eq!(size(1, 8_388_608, &[1; 5]), [1; 5]);
    assert_eq!(size(1, 2, &[1; 5]), [1, 0, 1, 0, 0]);
}

/// The table that Envoy's own tests write down for six hosts and seven places.
#[test]
fn a_table_is_that_of_envoy() {
    let seven = Maglev::new(7).unwrap();
    let table = Table::new(seven, &on_ports(90, &[1; 6]));
    let expected = [2, 4, 0, 1, 5, 0, 3];
    for hash in 0..21 {
        assert_eq!(table.host(hash, 0), expected[hash as usize % 7], "{hash}");
    }
    // In whatever order the hosts come.
    let mut turned = on_ports(90, &[1; 6]);
    turned.reverse();
    let table = Table::new(seven, &turned);
    for hash in 0..7 {
        assert_eq!(5 - table.host(hash, 0), expected[hash as usize], "{hash}");
    }
}

#[test]
fn hashes_are_shared_by_weight() {
    let hosts = on_ports(80, &[1, 2, 3, 4]);
    let policies = [
        (LbPolicy::Maglev(Maglev::DEFAULT), 0.001),
        (
            LbPolicy::RingHash(RingHash {
                min_size: 100_000,
                ..RingHash::DEFAULT
            }),
            0.02,
        ),
    ];
    for (policy, tolerance) in policies {
        let entropy = Entropy::seeded(1);
        let picker = Picker::new(&policy, &hosts, &mut entropy.draw());
        let mut counts = [0u32; 4];
        for hash in 0..100_000u64 {
            let hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            counts[picker
                .pick(&hosts, hashed(hash), |_| false, &mut entropy.draw())
                .unwrap()] += 1;
        }
        for (count, host) in counts.iter().zip(&hosts) {
            let share = f64::from(*count) / 100_000.0;
            assert!(
                (share - f64::from(host.weight) / 10.0).abs() < tolerance,
                "{policy:?}: {counts:?}"
            );
        }
    }
}

#[test]
fn a_host_that_goes_moves_its_own_calls_and_few_others() {
    let one_place = RingHash {
        min_size: 1,
        ..RingHash::DEFAULT
    };
    // How many of the nine thousand that stayed may move: none on a ring where a host has as many places as before; where it
    // has some more, since the ring is not to be smaller than that, those that fall to them; in a table a few.
    for (policy, bound) in [
        (LbPolicy::RingHash(one_place), 0),
        (LbPolicy::RingHash(RingHash::DEFAULT), 1_000),
        (LbPolicy::Maglev(Maglev::DEFAULT), 300),
    ] {
        let entropy = Entropy::seeded(1);
        let all = on_ports(80, &[1; 10]);
        let rest = on_ports(80, &[1; 9]);
        let before = Picker::new(&policy, &all, &mut entropy.draw());
        let after = Picker::new(&policy, &rest, &mut entropy.draw());
        let mut moved = 0;
        for hash in 0..10_000u64 {
            let ask = hashed(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let old = before.pick(&all, ask, |_| false, &mut entropy.draw()).unwrap();
            let new = after.pick(&rest, ask, |_| false, &mut entropy.draw()).unwrap();
            moved += u32::from(old != new && old != 9);
        }
        assert!(moved <= bound, "{policy:?}: {moved}");
    }
}

#[test]
fn a_host_that_cannot_be_called_moves_its_own_calls_alone() {
    for policy in [LbPolicy::RingHash(RingHash::DEFAULT), LbPolicy::Maglev(Maglev::DEFAULT)] {
        let entropy = Entropy::seeded(1);
        let mut hosts = on_ports(80, &[1; 10]);
        let picker = Picker::new(&policy, &hosts, &mut entropy.draw());
        let pick = |hosts: &[Host], hash: u64| {
            let ask = hashed(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            picker.pick(hosts, ask, |_| false, &mut entropy.draw()).unwrap()
        };
        let before: Vec<usize> = (0..2_000).map(|hash| pick(&hosts, hash)).collect();
        hosts[3].available = false;
        for (hash, before) in before.iter().enumerate() {
            let now = pick(&hosts, hash as u64);
            assert!(now != 3 && (*before == 3 || now == *before), "{policy:?}");
        }
    }
}

#[test]
fn a_call_that_hashes_to_nothing_goes_anywhere() {
    for policy in [LbPolicy::RingHash(RingHash::DEFAULT), LbPolicy::Maglev(Maglev::DEFAULT)] {
        let shares = shares(&policy, &on_ports(80, &[1; 4]), 4_000);
        assert!(shares.iter().all(|share| *share > 500), "{policy:?}: {shares:?}");
    }
}

#[test]
fn the_first_takes_all_until_it_cannot_be_called() {
    let entropy = Entropy::seeded(2);
    let mut hosts = on_ports(80, &[1; 4]);
    let policy = LbPolicy::PickFirst { shuffle: false };
    let picker = Picker::new(&policy, &hosts, &mut entropy.draw());
    let pick =
        |hosts: &[Host], tried: &str| picker.pick(hosts, Ask::default(), |host| host.key == tried, &mut entropy.draw());
    for _ in 0..100 {
        assert_eq!(pick(&hosts, ""), Some(0));
    }
    // A retry goes elsewhere and nothing else does.
    assert_eq!(pick(&hosts, "127.0.0.1:80"), Some(1));
    assert_eq!(pick(&hosts, ""), Some(0));
    hosts[0].available = false;
    hosts[1].available = false;
    assert_eq!(pick(&hosts, ""), Some(2));
    // It stays there when the others are back.
    hosts[0].available = true;
    assert_eq!(pick(&hosts, ""), Some(2));
    // And over a change of addresses, where it has a connection.
    hosts[2].connected = true;
    hosts.remove(0);
    let picker = Picker::new(&policy, &hosts, &mut entropy.draw());
    assert_eq!(
        picker.pick(&hosts, Ask::default(), |_| false, &mut entropy.draw()),
        Some(1)
    );
}

#[test]
fn clients_that_shuffle_share_the_hosts_by_weight() {
    let entropy = Entropy::seeded(2);
    let hosts = on_ports(80, &[1, 3]);
    let mut counts = [0; 2];
    for _ in 0..4_000 {
        let picker = Picker::new(&LbPolicy::PickFirst { shuffle: true }, &hosts, &mut entropy.draw());
        counts[picker
            .pick(&hosts, Ask::default(), |_| false, &mut entropy.draw())
            .unwrap()] += 1;
    }
    assert!(near(counts[1], 4_000, 0.75), "{counts:?}");
}

fn report(figures: &[(Metric<'_>, f64)], settings: &ClientWeights) -> LoadReport {
    let mut report = LoadReport::default();
    for (metric, value) in figures {
        report.add(*metric, *value, settings);
    }
    report
}

/// Figures by their settings, and the weight.
type Case<'a> = (&'a ClientWeights, &'a [(Metric<'a>, f64)], Option<f64>);

/// The cases of gRFCs A58 and A114.
#[test]
fn a_report_is_a_rate_for_its_utilisation() {
    use Metric::{Application, Cpu, Errors, Memory, Named, Rate};
    let now = epoch();
    let plain = ClientWeights {
        blackout: Duration::ZERO,
        ..ClientWeights::default()
    };
    let named = ClientWeights {
        metrics: vec![ReportedMetric::Named("q".into()), ReportedMetric::MemUtilization].into(),
        blackout: Duration::ZERO,
        ..ClientWeights::default()
    };
    let harsh = ClientWeights {
        error_penalty_per_mille: 2_000,
        blackout: Duration::ZERO,
        ..ClientWeights::default()
    };
    let cases: [Case<'_>; 10] = [
        (&plain, &[(Rate, 100.0), (Cpu, 0.5)], Some(200.0)),
        (&plain, &[(Rate, 100.0), (Cpu, 0.5), (Application, 0.8)], Some(125.0)),
        (&plain, &[(Rate, 100.0), (Cpu, 0.5), (Errors, 50.0)], Some(100.0)),
        (&harsh, &[(Rate, 100.0), (Cpu, 0.5), (Errors, 25.0)], Some(100.0)),
        (&plain, &[(Rate, 100.0)], None),
        (&plain, &[(Cpu, 0.5)], None),
        (&plain, &[(Rate, 100.0), (Named("q"), 0.5)], None),
        (
            &named,
            &[(Rate, 100.0), (Named("q"), 0.4), (Memory, 0.5), (Cpu, 1.0)],
            Some(200.0),
        ),
        (
            &named,
            &[(Rate, 100.0), (Named("p"), 0.4), (Application, 0.25), (Cpu, 1.0)],
            Some(400.0),
        ),
        (&plain, &[(Rate, 100.0), (Application, 0.0), (Cpu, 0.5)], Some(200.0)),
    ];
    for (settings, figures, expected) in cases {
        let reported = Reported::new(now);
        reported.told(&report(figures, settings), settings, now);
        assert_eq!(reported.weight(settings, now), expected, "{figures:?}");
    }
}

#[test]
fn a_weight_counts_neither_too_early_nor_too_late() {
    let start = epoch();
    let at = |seconds| start + Duration::from_secs(seconds);
    let settings = ClientWeights::default();
    let figures = report(&[(Metric::Rate, 100.0), (Metric::Cpu, 0.5)], &settings);
    let reported = Reported::new(start);
    reported.told(&figures, &settings, at(1));
    assert_eq!(reported.weight(&settings, at(10)), None);
    assert_eq!(reported.weight(&settings, at(11)), Some(200.0));
    reported.told(&figures, &settings, at(20));
    assert_eq!(reported.weight(&settings, at(199)), Some(200.0));
    // Too old; and what comes then must stand for a while again.
    assert_eq!(reported.weight(&settings, at(200)), None);
    reported.told(&figures, &settings, at(201));
    assert_eq!(reported.weight(&settings, at(210)), None);
    assert_eq!(reported.weight(&settings, at(211)), Some(200.0));
    // So too behind a new connection.
    reported.reconnected();
    reported.told(&figures, &settings, at(220));
    assert_eq!(reported.weight(&settings, at(229)), None);
    assert_eq!(reported.weight(&settings, at(230)), Some(200.0));
}

/// Shares after `reweigh`, where hosts reported these rates at full use.
fn by_reports(rates: &[f64], picks: usize) -> Vec<usize> {
    let settings = ClientWeights {
        blackout: Duration::ZERO,
        ..ClientWeights::default()
    };
    let hosts = on_ports(80, &vec![1; rates.len()]);
    let entropy = Entropy::seeded(11);
    let now = epoch();
    for (host, rate) in hosts.iter().zip(rates) {
        let figures = [(Metric::Rate, *rate), (Metric::Cpu, 1.0)];
        host.reported.told(&report(&figures, &settings), &settings, now);
    }
    let policy = LbPolicy::ClientSideWeightedRoundRobin(settings);
    let picker = Picker::new(&policy, &hosts, &mut entropy.draw());
    assert_eq!(picker.reweigh(&hosts, now), Some(Duration::from_secs(1)));
    let mut shares = vec![0; hosts.len()];
    for _ in 0..picks {
        shares[picker
            .pick(&hosts, Ask::default(), |_| false, &mut entropy.draw())
            .unwrap()] += 1;
    }
    shares
}

#[test]
fn reports_are_shares() {
    // Fairly: those without a report as the mean, and no comparison where there is but one.
    let cases: [(&[f64], &[f64]); 6] = [
        (&[1.0, 2.0, 3.0, 4.0], &[0.1, 0.2, 0.3, 0.4]),
        (&[5.0, 5.0, 5.0], &[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]),
        (&[0.0, 0.0], &[0.5, 0.5]),
        (&[9.0, 0.0], &[0.5, 0.5]),
        (&[1.0, 3.0, 0.0], &[1.0 / 6.0, 0.5, 1.0 / 3.0]),
        // However little one can take, it has a hundredth of the mean, so that it is heard of again.
        (&[1e-9, 1.0], &[0.005 / 1.005, 1.0 / 1.005]),
    ];
    for (rates, fair) in cases {
        let shares = by_reports(rates, 12_000);
        for (count, fair) in shares.iter().zip(fair) {
            // Not by chance: a stride is as even as it can be.
            assert!((*count as f64 - 12_000.0 * fair).abs() <= 12.0, "{rates:?}: {shares:?}");
        }
    }
    // Ten times the mean and a hundredth of it are the ends.
    let mut rates = vec![1.0; 50];
    rates[7] = 1e9;
    let shares = by_reports(&rates, 104_900);
    let light = shares.iter().enumerate().filter(|(host, _)| *host != 7);
    assert!(light.clone().all(|(_, share)| (98..=102).contains(share)), "{shares:?}");
}

#[test]
fn only_what_is_weighed_by_reports_is_weighed_again() {
    let hosts = on_ports(80, &[1; 3]);
    let entropy = Entropy::seeded(1);
    for policy in all_policies() {
        let picker = Picker::new(&policy, &hosts, &mut entropy.draw());
        let weighed = matches!(policy, LbPolicy::ClientSideWeightedRoundRobin(_));
        assert_eq!(picker.reweigh(&hosts, epoch()).is_some(), weighed, "{policy:?}");
    }
}

/// Envoy's `hash_balance_factor`: a host takes `ceil(ceil((all + 1) * factor / 100) * share)` calls and one more.
#[test]
fn what_is_too_much_for_a_host_goes_to_the_same_others() {
    let entropy = Entropy::seeded(5);
    let balance = BalanceFactor::new(150);
    let ring = RingHash {
        balance,
        ..RingHash::DEFAULT
    };
    let table = Maglev::DEFAULT.balanced(balance);
    for policy in [LbPolicy::RingHash(ring), LbPolicy::Maglev(table)] {
        let mut hosts = on_ports(80, &[2, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        let picker = Picker::new(&policy, &hosts, &mut entropy.draw());
        let pick = |hosts: &[Host], hash, in_flight| {
            let ask = Ask {
                in_flight,
                ..hashed(hash)
            };
            picker.pick(hosts, ask, |_| false, &mut entropy.draw()).unwrap()
        };
        let idle = pick(&hosts, 42, 0);
        // One key takes all calls: its host stops at its bound, and then the next of its own order does.
        let mut order = vec![idle];
        for all in 0..200u32 {
            let index = pick(&hosts, 42, all);
            let share = if index == 0 { 2 } else { 1 };
            let slots = ((all + 1) * 150).div_ceil(100) * share;
            assert!(hosts[index].in_flight <= slots.div_ceil(11).max(1), "{policy:?} {all}");
            hosts[index].in_flight += 1;
            if !order.contains(&index) {
                order.push(index);
            }
        }
        assert!(order.len() > 6, "{policy:?}: {order:?}");
        // The same again, for whoever calls.
        for host in &mut hosts {
            host.in_flight = 0;
        }
        assert_eq!(pick(&hosts, 42, 0), idle);
        hosts[idle].in_flight = 100;
        assert_eq!(pick(&hosts, 42, 100), order[1], "{policy:?}");
        hosts[order[1]].available = false;
        assert_eq!(pick(&hosts, 42, 100), order[2], "{policy:?}");
        // Where all are full, the least busy takes it.
        for (n, host) in hosts.iter_mut().enumerate() {
            (host.in_flight, host.available) = (1_000 + n as u32, true);
        }
        hosts[7].in_flight = 900;
        hosts[0].in_flight = 2_100;
        assert_eq!(pick(&hosts, 42, 9), 7, "{policy:?}");
        // Without a bound it stays where it hashes to, however busy.
        let free = match policy {
            LbPolicy::RingHash(_) => LbPolicy::RingHash(RingHash::DEFAULT),
            _ => LbPolicy::Maglev(Maglev::DEFAULT),
        };
        let free = Picker::new(&free, &hosts, &mut entropy.draw());
        assert_eq!(
            free.pick(&hosts, hashed(42), |_| false, &mut entropy.draw()),
            Some(idle)
        );
    }
    assert_eq!(BalanceFactor::new(99), None);
}
