"""The paper's theory (section 3.4, appendix E) as something that can be measured: data, network, mixtures, verdict."""
