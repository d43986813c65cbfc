//! A bucket behind a network that loses answers: a proxy in front of the S3 server passes requests on, and now and then answers 500
//! although the server took the commit, or closes the connection before or after that. Nothing is committed twice, nothing lost.

use crate::support::{ROWS_PER_STEP, Small, in_bucket, succeeded};
use std::{
    io::{BufRead, BufReader, Read, Result, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// What becomes of a conditional put.
#[derive(Clone, Copy)]
enum Fate {
    /// The server answers.
    Passed,
    /// The server makes it; the answer is 500.
    AnsweredWith500,
    /// The server makes it; the connection is closed.
    ClosedAfter,
    /// The connection is closed before the server hears of it.
    ClosedBefore,
}

/// A proxy on a port of its own, until the test's process ends.
struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: String,
    /// Of 100 conditional puts, how many go wrong.
    percent: u64,
    chance: AtomicU64,
    /// Puts by their fate.
    fates: [AtomicU64; 4],
}

impl Proxy {
    fn before(server: &str, percent: u64, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (server, address) = (server.to_string(), listener.local_addr().unwrap());
        let shared = Arc::new(Shared { server, percent, chance: AtomicU64::new(seed), fates: Default::default() });
        let of_all = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = of_all.clone();
                // A connection that fails is the client's to try again.
                std::thread::spawn(move || shared.serve(client));
            }
        });
        Self { address, shared }
    }

    fn met(&self, fate: Fate) -> u64 {
        self.shared.fates[fate as usize].load(Ordering::SeqCst)
    }
}

impl Shared {
    /// The next number of a splitmix64 sequence, below `n`.
    fn below(&self, n: u64) -> u64 {
        let mut z = self.chance.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn fate(&self, head: &str) -> Fate {
        let is_conditional = head.starts_with("PUT ") && head.to_lowercase().contains("\r\nif-none-match:");
        if !is_conditional {
            return Fate::Passed;
        }
        let fate = match self.below(100) < self.percent {
            true => [Fate::AnsweredWith500, Fate::ClosedAfter, Fate::ClosedBefore][self.below(3) as usize],
            false => Fate::Passed,
        };
        self.fates[fate as usize].fetch_add(1, Ordering::SeqCst);
        fate
    }

    /// One request and its answer; then the connection is closed.
    fn serve(&self, client: TcpStream) -> Result<()> {
        let mut from_client = BufReader::new(client.try_clone()?);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if from_client.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            // The headers that are signed do not include this one.
            if !line.to_lowercase().starts_with("connection:") {
                head += &line;
            }
        }
        let mut body = vec![0; length];
        from_client.read_exact(&mut body)?;
        let fate = self.fate(&head);
        if let Fate::ClosedBefore = fate {
            return Ok(());
        }
        let mut server = TcpStream::connect(&self.server)?;
        server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
        server.write_all(&body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        match fate {
            Fate::Passed => (&client).write_all(&answer),
            Fate::AnsweredWith500 => {
                let answer = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                (&client).write_all(answer.as_bytes())
            }
            Fate::ClosedAfter | Fate::ClosedBefore => Ok(()),
        }
    }
}

#[test]
fn answers_that_are_lost_commit_nothing_twice_and_lose_nothing() {
    let Some(bucket) = in_bucket() else { return };
    let endpoint = std::env::var("AWS_ENDPOINT").unwrap();
    let proxy = Proxy::before(endpoint.strip_prefix("http://").unwrap(), 20, 7);
    let (folder, sets) = (Small::new(), ["learn.steps=8"]);
    succeeded(&folder.run(&sets));
    let through = format!("http://{}", proxy.address);
    succeeded(&bucket.command("run", &sets).env("AWS_ENDPOINT", through).output().unwrap());
    for fate in [Fate::AnsweredWith500, Fate::ClosedAfter, Fate::ClosedBefore] {
        assert!(proxy.met(fate) > 0, "of {} conditional puts that passed", proxy.met(Fate::Passed));
    }
    let digests = "select step, weights_digest from steps order by step";
    assert_eq!(bucket.sql(digests), folder.sql(digests));
    let rows = 8 * ROWS_PER_STEP;
    let consumed = "select count(*), count(distinct rollout_id) from consumed";
    assert_eq!(bucket.sql(consumed), [format!("{rows},{rows}")]);
    // No kind of work is in the log more often than in a run that nothing disturbed.
    let work = "select kind, count(*) from commits where kind in ('rollouts', 'scores', 'step', 'drop', 'eval') group by 1 order by 1";
    assert_eq!(bucket.sql(work), folder.sql(work));
    assert_eq!(bucket.sql("select count(*) from dropped"), ["0"]);
}
